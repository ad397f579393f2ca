"""The largest of a row by maxima: ArgMax to the last tie."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import parser

from ppsr.export.openvino_surgery import CATEGORY, OPENVINO_PASSES, largest_by_maxima
from ppsr.export.surgery import run_passes

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'


def argmax(shape: str = "1, R, 5", axis: int = -1, keep: int = 1) -> onnx.ModelProto:
    """Two ArgMax of the same scores, one of them negated: their constants are shared."""
    attributes = f"<axis = {axis}, keepdims = {keep}>"
    model: onnx.ModelProto = parser.parse_model(
        f"""{HEADER}g (float[{shape}] x) => (int64[N] y, int64[M] z)
        <int64[1] flat = {{-1}}>
        {{
            a = ArgMax {attributes} (x)
            y = Reshape (a, flat)
            n = Neg (x)
            b = ArgMax {attributes} (n)
            z = Reshape (b, flat)
        }}"""
    )
    first, second = (node for node in model.graph.node if node.op_type == "ArgMax")
    first.name, second.name = "a.b/ArgMax", "c.d/ArgMax"
    return model


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def both(
    runs: Callable, scores: npt.NDArray[np.float32], model: onnx.ModelProto
) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]]:
    operated = run_passes(model, OPENVINO_PASSES)
    assert "ArgMax" not in operators(operated)
    return runs(model, {"x": scores}), runs(operated, {"x": scores})


@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("rows", [1, 64, 1000])
def test_random_scores(onnxruntime_runs: Callable, axis: int, keep: int, rows: int) -> None:
    scores = np.random.default_rng(rows).normal(size=(1, rows, 5)).astype(np.float32)
    wanted, got = both(onnxruntime_runs, scores, argmax(axis=axis, keep=keep))
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == np.int64
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(got[0], scores.argmax(-1).reshape(-1))
    assert rows == 1 or set(got[0]) == set(range(5))


def test_of_ties_the_first_wins(onnxruntime_runs: Callable) -> None:
    """Few values, so that most rows hold their largest more than once, bit by bit."""
    random = np.random.default_rng(0)
    scores = random.choice(np.array([0.1, 0.3, 1e-30], np.float32), (1, 500, 5))
    assert ((scores == scores.max(-1, keepdims=True)).sum(-1) > 1).mean() > 0.5
    wanted, got = both(onnxruntime_runs, scores, argmax())
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("value", [0, 1, -3.5, 1e30, -1e-40, np.inf, -np.inf])
def test_of_equal_scores_it_is_the_first(onnxruntime_runs: Callable, value: float) -> None:
    wanted, got = both(onnxruntime_runs, np.full((1, 7, 5), value, np.float32), argmax())
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(ours, 0)
        np.testing.assert_array_equal(theirs, 0)


def test_the_last_bit_and_the_sign_of_zero(onnxruntime_runs: Callable) -> None:
    one = np.float32(1)
    more = np.nextafter(one, np.float32(2))
    rows = np.array([[one, more, one, more, 0], [-0.0, 0, -0.0, 0, -1]], np.float32)[None]
    wanted, got = both(onnxruntime_runs, rows, argmax())
    np.testing.assert_array_equal(got[0], [1, 0])
    np.testing.assert_array_equal(got[0], wanted[0])


@pytest.mark.parametrize("entries", [1, 64, 128])
def test_any_number_of_entries(onnxruntime_runs: Callable, entries: int) -> None:
    """The largest is in each place once."""
    scores = np.eye(entries, dtype=np.float32)[None]
    _, got = both(onnxruntime_runs, scores, argmax(f"1, R, {entries}"))
    np.testing.assert_array_equal(got[0], np.arange(entries))


def test_what_it_leaves_behind() -> None:
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(argmax()))
    assert largest_by_maxima(graph) == 2
    assert largest_by_maxima(graph) == 0
    operated = run_passes(argmax(), OPENVINO_PASSES)
    names = [name for node in operated.graph.node for name in node.output]
    assert len(names) == len(set(names))
    assert [name for name in names if name.endswith(CATEGORY)] == ["a.b/category", "c.d/category"]
    assert [list(tensor.dims) for tensor in operated.graph.initializer].count([5]) == 1


@pytest.mark.parametrize(
    ("shape", "axis"), [("1, R, 5", 1), ("1, R, K", -1), ("4, 5", 0)], ids=["rows", "open", "first"]
)
def test_leaves_alone(shape: str, axis: int) -> None:
    """Another axis than the last, and a number of entries that is known only later."""
    operated = run_passes(argmax(shape, axis), OPENVINO_PASSES)
    assert {"ArgMax", "Reshape", "Neg"} == operators(operated)
