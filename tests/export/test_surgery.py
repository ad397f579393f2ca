"""Every pass: where it rewrites, where it must not, and that the numbers stay."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import parser

from ppsr.export import engine_surgery, index_surgery, surgery
from ppsr.export.engine_surgery import ENGINE_PASSES
from ppsr.export.index_surgery import INDEX_PASSES
from ppsr.export.surgery import PASSES, Pass, run_passes

ALL = (*PASSES, *INDEX_PASSES, *ENGINE_PASSES)
HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'

POSITIVE: dict[str, tuple[Pass, str, list[str]]] = {
    "one of a stack": (
        surgery.select_slices,
        """g (float[3, 4] x) => (float[4] y)
        <int64[1] a = {1}, int64[1] b = {2}, int64[1] axis = {0}>
        { one = Slice (x, a, b, axis)  y = Squeeze (one, axis) }""",
        ["Gather"],
    ),
    "q, k, v": (
        surgery.select_slices,
        """g (float[2, 3, 4] x) => (float[2, 4] q, float[2, 4] k, float[2, 4] v)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}>
        {
            q1 = Slice (x, zero, one, one, one)    q = Squeeze (q1, one)
            k1 = Slice (x, one, two, one, one)     k = Squeeze (k1, one)
            v1 = Slice (x, two, three, one, one)   v = Squeeze (v1, one)
        }""",
        ["Gather", "Gather", "Gather"],
    ),
    "a constant index": (
        engine_surgery.int32_indices,
        """g (float[3, 4] x) => (float[2, 4] y)
        <int64[2] i = {2, 0}>
        { y = Gather (x, i) }""",
        ["Gather"],
    ),
    "an index for two": (
        engine_surgery.int32_indices,
        """g (float[3] x, int64[1] a) => (float[1] y, float[1] z)
        { y = Gather (x, a)  z = GatherElements (x, a) }""",
        ["Cast", "Gather", "GatherElements"],
    ),
    "an index that was int32": (
        engine_surgery.int32_indices,
        """g (float[3] x, float[1] n) => (float[3] y)
        <int32[1] i = {2}>
        { j = Cast <to = 7> (i)  y = ScatterElements (x, j, n) }""",
        ["ScatterElements"],
    ),
    "an index that was a float": (
        engine_surgery.int32_indices,
        """g (float[1] x) => (float[1] y)
        <float[1] zero = {0}>
        { i = Cast <to = 7> (zero)  y = Gather (x, i) }""",
        ["Cast", "Cast", "Gather"],
    ),
    "flat already": (
        engine_surgery.drop_flat_reshapes,
        """g (float[3] x) => (float[3] y)
        <int64[1] flat = {-1}>
        { z = Reshape (x, flat)  y = Neg (z) }""",
        ["Neg"],
    ),
    "a bias": (
        engine_surgery.full_rank_constants,
        """g (float[1, 2, 3] x) => (float[1, 2, 3] y)
        <float[3] c = {1, 2, 3}>
        { y = Add (c, x) }""",
        ["Add"],
    ),
    "the addend of a Gemm": (
        engine_surgery.full_rank_constants,
        """g (float[2, 3] x) => (float[2, 1] y)
        <float[3, 1] w = {1, 2, 3}, float[1] c = {4}>
        { y = Gemm (x, w, c) }""",
        ["Gemm"],
    ),
    "scale and bias of a norm": (
        engine_surgery.full_rank_constants,
        """g (float[1, 2, 3] x) => (float[1, 2, 3] y)
        <float[3] s = {1, 2, 3}, float[3] b = {4, 5, 6}>
        { y = LayerNormalization (x, s, b) }""",
        ["LayerNormalization"],
    ),
    "a sum without the last": (
        index_surgery.exclusive_sums,
        """g (int64[4] i) => (int64[4] y)
        <int64 axis = {0}>
        { upto = CumSum (i, axis)  y = Sub (upto, i) }""",
        ["CumSum"],
    ),
    "two tables, one index": (
        index_surgery.shape_indices,
        """g (int64[4] i) => (float[1, 2, 2, 2] y, float[1, 2, 2, 2] z)
        <float[2, 3] a = {1, 2, 3, 4, 5, 6}, float[2, 3] b = {7, 8, 9, 1, 2, 3},
         int64[4] shape = {1, 2, 2, 2}>
        {
            p = Gather <axis = 1> (a, i)  y = Reshape (p, shape)
            q = Gather <axis = 1> (b, i)  z = Reshape (q, shape)
        }""",
        ["Reshape", "Gather", "Gather"],
    ),
    "rows of a batch of one": (
        index_surgery.scatter_in_place,
        """g (float[1, R, 3] x, int64[Q, 1] rows, float[Q, 3] u) => (float[1, R, 3] y)
        <int64[1] zero = {0}>
        { a = Squeeze (x, zero)  b = ScatterND (a, rows, u)  y = Unsqueeze (b, zero) }""",
        ["Sub", "Concat", "ScatterND"],
    ),
    "identity transpose": (
        surgery.drop_identity_transposes,
        """g (float[2, 3, 4] x) => (float[2, 3, 4] y)
        { same = Transpose <perm = [0, 1, 2]> (x)  y = Neg (same) }""",
        ["Neg"],
    ),
}

NEGATIVE: dict[str, tuple[Pass, str]] = {
    "a sum less something else": (
        index_surgery.exclusive_sums,
        """g (float[1, 4] x, float[1, 4] z) => (float[1, 4] y)
        <int64 axis = {1}>
        { upto = CumSum (x, axis)  y = Sub (upto, z) }""",
    ),
    "what a sum lacks of its terms": (
        index_surgery.exclusive_sums,
        """g (float[1, 4] x) => (float[1, 4] y)
        <int64 axis = {1}>
        { upto = CumSum (x, axis)  y = Sub (x, upto) }""",
    ),
    "an exclusive sum": (
        index_surgery.exclusive_sums,
        """g (float[1, 4] x) => (float[1, 4] y)
        <int64 axis = {1}>
        { before = CumSum <exclusive = 1> (x, axis)  y = Sub (before, x) }""",
    ),
    "rows of a table": (
        index_surgery.shape_indices,
        """g (int64[4] i) => (float[1, 4, 2, 1] y)
        <float[3, 2] a = {1, 2, 3, 4, 5, 6}, int64[4] shape = {1, 4, 2, 1}>
        { p = Gather <axis = 0> (a, i)  y = Reshape (p, shape) }""",
    ),
    "a shape that mixes rows and columns": (
        index_surgery.shape_indices,
        """g (int64[4] i) => (float[1, 4, 2, 1] y)
        <float[2, 3] a = {1, 2, 3, 4, 5, 6}, int64[4] shape = {1, 4, 2, 1}>
        { p = Gather <axis = 1> (a, i)  y = Reshape (p, shape) }""",
    ),
    "a table that is no constant": (
        index_surgery.shape_indices,
        """g (float[2, 3] x, int64[4] i) => (float[1, 2, 2, 2] y)
        <int64[4] shape = {1, 2, 2, 2}>
        { p = Gather <axis = 1> (x, i)  y = Reshape (p, shape) }""",
    ),
    "a scatter along another axis": (
        index_surgery.scatter_in_place,
        """g (float[4, 1, 3] x, int64[2, 1] rows, float[2, 3] u) => (float[4, 1, 3] y)
        <int64[1] one = {1}>
        { a = Squeeze (x, one)  b = ScatterND (a, rows, u)  y = Unsqueeze (b, one) }""",
    ),
    "a scatter of single numbers": (
        index_surgery.scatter_in_place,
        """g (float[1, 4, 3] x, int64[2, 2] places, float[2] u) => (float[1, 4, 3] y)
        <int64[1] zero = {0}>
        { a = Squeeze (x, zero)  b = ScatterND (a, places, u)  y = Unsqueeze (b, zero) }""",
    ),
    "a scatter that others read": (
        index_surgery.scatter_in_place,
        """g (float[1, 4, 3] x, int64[2, 1] rows, float[2, 3] u)
        => (float[1, 4, 3] y, float[4, 3] z)
        <int64[1] zero = {0}>
        {
            a = Squeeze (x, zero)  b = ScatterND (a, rows, u)
            y = Unsqueeze (b, zero)  z = Neg (b)
        }""",
    ),
    "gather of one row": (
        engine_surgery.int32_indices,
        """g (float[3, 4] x) => (float[4] y)
        <int32 i = {2}>
        { y = Gather (x, i) }""",
    ),
    "64-bit indices of ScatterND": (
        engine_surgery.int32_indices,
        """g (float[3] x, float[1] n) => (float[3] y)
        <int64[1, 1] i = {2}>
        { y = ScatterND (x, i, n) }""",
    ),
    "flattened from two axes": (
        engine_surgery.drop_flat_reshapes,
        """g (float[2, 3] x) => (float[6] y)
        <int64[1] flat = {-1}>
        { z = Reshape (x, flat)  y = Neg (z) }""",
    ),
    "a constant of the same rank": (
        engine_surgery.full_rank_constants,
        """g (float[2, 3] x) => (float[2, 3] y)
        <float[1, 3] c = {1, 2, 3}>
        { y = Add (x, c) }""",
    ),
    "a vector times a matrix": (
        engine_surgery.full_rank_constants,
        """g (float[2, 3] x) => (float[2] y)
        <float[3] c = {1, 2, 3}>
        { y = MatMul (x, c) }""",
    ),
    "slice of two": (
        surgery.select_slices,
        """g (float[3, 1, 4] x) => (float[2, 4] y)
        <int64[1] a = {1}, int64[1] b = {3}, int64[1] zero = {0}, int64[1] one = {1}>
        { two = Slice (x, a, b, zero)  y = Squeeze (two, one) }""",
    ),
    "slice of one along another axis": (
        surgery.select_slices,
        """g (float[3, 1, 4] x) => (float[1, 4] y)
        <int64[1] a = {1}, int64[1] b = {2}, int64[1] zero = {0}, int64[1] one = {1}>
        { row = Slice (x, a, b, zero)  y = Squeeze (row, one) }""",
    ),
    "slice from the end": (
        surgery.select_slices,
        """g (float[3, 4] x) => (float[4] y)
        <int64[1] a = {-2}, int64[1] b = {-1}, int64[1] zero = {0}>
        { row = Slice (x, a, b, zero)  y = Squeeze (row, zero) }""",
    ),
    "slice at a place only known later": (
        surgery.select_slices,
        """g (float[3, 4] x, int64[1] a, int64[1] b) => (float[4] y)
        <int64[1] zero = {0}>
        { row = Slice (x, a, b, zero)  y = Squeeze (row, zero) }""",
    ),
    "a real transpose": (
        surgery.drop_identity_transposes,
        """g (float[2, 3, 4] x) => (float[3, 2, 4] y)
        { turned = Transpose <perm = [1, 0, 2]> (x)  y = Neg (turned) }""",
    ),
    "a transpose that reverses": (
        surgery.drop_identity_transposes,
        """g (float[2, 3] x) => (float[3, 2] y)
        { turned = Transpose (x)  y = Neg (turned) }""",
    ),
}

FEEDS = {
    **{"a": np.array([1]), "b": np.array([2]), "i": np.array([2, 0, 1, 2])},
    **{"rows": np.array([[3], [1]]), "places": np.array([[3, 0], [1, 2]])},
}


def parse(text: str) -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(HEADER + text)
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Random floats; given integers; the dynamic axes R and Q are 4 and 2 long."""
    random, values = np.random.default_rng(0), {}
    for value in model.graph.input:
        shape = [
            axis.dim_value or {"R": 4, "Q": 2}[axis.dim_param]
            for axis in value.type.tensor_type.shape.dim
        ]
        is_float = value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        values[value.name] = (
            random.uniform(1, 2, shape).astype(np.float32) if is_float else FEEDS[value.name]
        )
    return values


@pytest.mark.parametrize("case", POSITIVE)
def test_rewrites(case: str, onnxruntime_runs: Callable) -> None:
    step, text, expected = POSITIVE[case]
    model = parse(text)
    before = model.SerializeToString()
    operated = run_passes(model, (step,))
    assert model.SerializeToString() == before
    assert operators(operated) == expected
    for old, new in zip(
        onnxruntime_runs(model, feed(model)), onnxruntime_runs(operated, feed(model)), strict=True
    ):
        np.testing.assert_array_equal(new, old)
    assert operated.ir_version == 10
    assert [v.name for v in operated.graph.input] == [v.name for v in model.graph.input]
    assert [v.name for v in operated.graph.output] == [v.name for v in model.graph.output]


@pytest.mark.parametrize("case", NEGATIVE)
def test_leaves_alone(case: str, onnxruntime_runs: Callable) -> None:
    step, text = NEGATIVE[case]
    model = parse(text)
    assert step(gs.import_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True))) == 0
    operated = run_passes(model, (step,))
    assert operators(operated) == operators(model)
    for old, new in zip(
        onnxruntime_runs(model, feed(model)), onnxruntime_runs(operated, feed(model)), strict=True
    ):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("case", POSITIVE)
def test_counts_its_rewrites_and_ends(case: str) -> None:
    step, text, _ = POSITIVE[case]
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(parse(text), data_prop=True))
    made = step(graph)
    assert made >= 1
    while made:
        graph.cleanup()
        made = step(graph)


def test_an_output_keeps_its_name_when_a_transpose_goes(onnxruntime_runs: Callable) -> None:
    """The transpose makes the graph's output itself: it must not vanish with the output."""
    model = parse(
        """g (float[2, 3] x) => (float[2, 3] y)
        { z = Neg (x)  y = Transpose <perm = [0, 1]> (z) }"""
    )
    operated = run_passes(model, PASSES)
    assert [v.name for v in operated.graph.output] == ["y"]
    np.testing.assert_array_equal(onnxruntime_runs(operated, feed(model))[0], -feed(model)["x"])


def test_unused_nodes_go_and_unused_inputs_stay() -> None:
    text = "g (float[2] x, float[2] spare) => (float[2] y) { y = Neg (x)  other = Abs (spare) }"
    operated = run_passes(parse(text), PASSES)
    assert operators(operated) == ["Neg"]
    assert [v.name for v in operated.graph.input] == ["x", "spare"]


def test_constants_get_the_rank_of_what_they_meet() -> None:
    _, text, _ = POSITIVE["scale and bias of a norm"]
    operated = run_passes(parse(text), ENGINE_PASSES)
    assert [list(tensor.dims) for tensor in operated.graph.initializer] == [[1, 1, 3], [1, 1, 3]]


def test_the_real_graph_has_nothing_left_to_rewrite(body: Callable, traced: Callable) -> None:
    model = body()
    assert len(model.graph.node) < len(traced().graph.node)
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model, data_prop=True))
    assert [step(graph) for step in ALL] == [0] * len(ALL)


@pytest.mark.parametrize("step", ALL, ids=lambda step: step.__name__)
def test_every_pass_earns_its_place(traced: Callable, step: Pass) -> None:
    """On the network as traced; a pass that finds nothing there can go."""
    model = onnx.shape_inference.infer_shapes(traced(), data_prop=True)
    others = tuple(p for p in ALL if p is not step)
    graph = gs.import_onnx(
        onnx.shape_inference.infer_shapes(run_passes(model, others), data_prop=True)
    )
    assert partial(step, graph)() > 0
