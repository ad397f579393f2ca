"""Passes for onnxruntime: where they rewrite, where they must not, and that the numbers stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import parser

from ppsr.export.index_surgery import INDEX_PASSES
from ppsr.export.ort_surgery import (
    ORT_PASSES,
    gather_before_adding,
    one_hot_rows,
    skip_whole_scatters,
)
from ppsr.export.surgery import PASSES, Pass, run_passes
from ppsr.export.tuning import RECIPES

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'

ROWS = """g (int32[n, 1] x) => (int32[n, 4] y) <int32[4] kinds = {KINDS}>
    { equal = Equal (x, kinds)  y = Cast <to = 6> (equal) }"""
SUM = """g (int32[n, k] x, int32[1, k] row, int64[n, 1] i) => (int32[n, 1] y)
    { sum = Add (x, row)  y = GatherElements <axis = AXIS> (sum, i) }"""
SCATTER = """g (float[1, t, 2] x, float[s, 2] y, int64[n] r, int64[n] INDEX) => (float[1, t, 2] z)
    <int64[1] one = {1}, int64[1] zero = {0}>
    {
        column = Unsqueeze (INDEX, one)
        zeros = Sub (column, column)
        pair = Concat <axis = 1> (zeros, column)
        rows = GATHERED
        z = ScatterND (x, pair, rows)
    }"""
GATHERED = "Gather (y, r)"


def parse(text: str) -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(HEADER + text)
    return model


def made_by(step: Pass, model: onnx.ModelProto) -> int:
    """How often the pass rewrites."""
    return step(gs.import_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True)))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_one_hot_rows(onnxruntime_runs: Callable) -> None:
    model = parse(ROWS.replace("KINDS", "0, 1, 2, 3"))
    operated = run_passes(model, (one_hot_rows,))
    assert operators(operated) == ["Reshape", "Gather"]
    feed = {"x": np.array([[2], [0], [3], [2]], np.int32)}
    (wanted,), (got,) = (onnxruntime_runs(one, feed) for one in (model, operated))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("kinds", ["1, 2, 3, 4", "3, 2, 1, 0"])
def test_rows_of_other_kinds_stay(kinds: str) -> None:
    assert made_by(one_hot_rows, parse(ROWS.replace("KINDS", kinds))) == 0


@pytest.mark.parametrize("axis", [1, -1])
def test_one_number_of_a_row_is_gathered_before_it_is_added(
    axis: int, onnxruntime_runs: Callable
) -> None:
    model = parse(SUM.replace("AXIS", str(axis)))
    operated = run_passes(model, (gather_before_adding,))
    assert sorted(operators(operated)) == ["Add", "Gather", "GatherElements", "Reshape"]
    random = np.random.default_rng(0)
    feed = {
        "x": random.integers(0, 99, (5, 3), np.int32),
        "row": random.integers(0, 99, (1, 3), np.int32),
        "i": random.integers(0, 3, (5, 1)),
    }
    (wanted,), (got,) = (onnxruntime_runs(one, feed) for one in (model, operated))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AXIS", "0"),
        ("int32[1, k] row", "int32[n, k] row"),
        ("int32[1, k] row", "int32[k] row"),
        ("(int32[n, 1] y)", "(int32[n, 1] y, int32[n, k] sum)"),
    ],
    ids=["of a column", "of many rows", "of no row", "the sum is asked for"],
)
def test_other_sums_stay(old: str, new: str) -> None:
    text = SUM.replace(old, new).replace("AXIS", "1")
    assert made_by(gather_before_adding, parse(text)) == 0


@pytest.mark.parametrize("active", [[0, 1, 2, 3], [0, 2, 3], [3], []])
def test_a_scatter_of_all_is_a_gather(active: list[int], onnxruntime_runs: Callable) -> None:
    model = parse(SCATTER.replace("INDEX", "active").replace("GATHERED", GATHERED))
    operated = run_passes(model, (skip_whole_scatters,))
    assert "ScatterND" not in operators(operated)
    assert operators(operated)[-1] == "If"
    random = np.random.default_rng(0)
    feed = {
        "x": random.random((1, 4, 2), np.float32),
        "y": random.random((6, 2), np.float32),
        "r": random.permutation(6)[: len(active)],
        "active": np.array(active, np.int64),
    }
    (wanted,), (got,) = (onnxruntime_runs(one, feed) for one in (model, operated))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("index", "gathered"),
    [("places", GATHERED), ("active", "Neg (y)")],
    ids=["places in any order", "rows that were not gathered"],
)
def test_other_scatters_stay(index: str, gathered: str) -> None:
    text = SCATTER.replace("INDEX", index).replace("GATHERED", gathered)
    assert made_by(skip_whole_scatters, parse(text)) == 0


@pytest.mark.parametrize("step", ORT_PASSES, ids=lambda step: step.__name__)
def test_every_pass_earns_its_place(traced: Callable, step: Pass) -> None:
    """On the network as traced; a pass that finds nothing there can go."""
    (_, name), (_, spell), _ = RECIPES["onnxruntime"].stages
    others = tuple(one for one in (*PASSES, *INDEX_PASSES, *ORT_PASSES) if one is not step)
    assert made_by(step, run_passes(spell(name(traced("tiny", "onnxruntime"))), others)) >= 2


def test_all_tokens_active_takes_the_branch_without_a_scatter(
    graph: Callable, photo: Callable, onnxruntime_runs: Callable
) -> None:
    """What the branch returns is the output: other rows in it are another picture."""
    model = graph("tiny", tuning="onnxruntime")[0]
    rgb = photo("coffee", 32, 48)
    image = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    for node in changed.graph.node:
        if node.op_type == "If" and ".attention/" not in node.name:
            branch = next(one.g for one in node.attribute if one.name == "then_branch")
            branch.node.append(
                onnx.helper.make_node("Neg", [branch.output[0].name], ["other"], "other")
            )
            branch.output[0].name = "other"
    for count, equal in ((1536, False), (1535, True)):
        feed = {"input": image, "active": np.arange(count)}
        (wanted,), (got,) = (onnxruntime_runs(one, feed) for one in (model, changed))
        assert np.array_equal(wanted, got) == equal
