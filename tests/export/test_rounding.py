"""The rounding graph: FP16 as hardware computes it, where onnxruntime's CPU does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator

from ppsr.export.rounding import PEAKS, round_fp16

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
CHAIN = """g (float[N] x) => (float[N] y)
{
    h = Cast <to = 10> (x)
    a = Mul (h, thousand)
    b = Mul (a, thousand)
    c = Div (b, tenthousand)
    d = Div (c, thousand)
    y = Cast <to = 1> (d)
}"""
ELEMENTWISE = """g (float[R, C] x, float[R, C] w) => (float[R, C] y, float[C, R] z)
{
    h = Cast <to = 10> (x)
    k = Cast <to = 10> (w)
    a = Mul (h, k)
    b = Add (a, third)
    c = Div (b, h)
    d = Sub (c, k)
    e = Abs (d)
    f = Max (e, floor)
    r = Sqrt (f)
    q = Reciprocal (r)
    t = Transpose (q)
    m = Neg (t)
    more = Greater (r, third)
    s = Where (more, r, b)
    y = Cast <to = 1> (s)
    z = Cast <to = 1> (m)
}"""


CONSTANTS = {"thousand": 1000, "tenthousand": 10000, "third": 1 / 3, "floor": 0.25}


def parse(text: str) -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(HEADER + text)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(value, np.float16), name)
        for name, value in CONSTANTS.items()
        if name in read
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def test_the_chain_overflows_here_and_not_in_onnxruntime(onnxruntime_runs: Callable) -> None:
    """1 * 1000 * 1000 / 1e4 / 1000: the second product is more than FP16 holds."""
    model, x = parse(CHAIN), np.ones(1, np.float32)
    (plain,) = onnxruntime_runs(model, {"x": x})
    assert plain[0] == pytest.approx(0.1, abs=1e-3)
    rounded, names = round_fp16(model)
    result, peaks = onnxruntime_runs(rounded, {"x": x})
    assert np.isposinf(result).all()
    assert names == ["h", "a", "b", "c", "d"]
    assert peaks.tolist() == [1, 1000, 1e6, np.inf, np.inf]


def test_small_numbers_vanish(onnxruntime_runs: Callable) -> None:
    model = parse(
        """g (float[N] x) => (float[N] y)
        { h = Cast <to = 10> (x)  a = Mul (h, h)  b = Mul (a, a)  y = Cast <to = 1> (b) }"""
    )
    result = onnxruntime_runs(round_fp16(model)[0], {"x": np.float32([0.01, 2**-12, 1])})[0]
    assert result[1:].tolist() == [0, 1]
    assert result[0] == np.float16(np.float16(np.float16(0.01) ** 2) ** 2)


def test_elementwise_operators_are_bit_equal_to_the_reference(onnxruntime_runs: Callable) -> None:
    """float32 has more than twice FP16's digits: rounding its result once is rounding exactly."""
    model, random = parse(ELEMENTWISE), np.random.default_rng(0)
    feed = {name: random.uniform(0.1, 50, (40, 30)).astype(np.float32) for name in "xw"}
    rounded, names = round_fp16(model)
    *got, peaks = onnxruntime_runs(rounded, feed)
    for mine, theirs in zip(got, ReferenceEvaluator(model).run(None, feed), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    exact = onnxruntime_runs(model, feed)
    assert any((a != b).any() for a, b in zip(got, exact, strict=True)), "nothing was rounded"
    assert len(names) == len(peaks)
    assert not {"t", "s", "y", "z"} & set(names), "moving and leaving FP16 round nothing"


def test_products_of_matrices_are_within_one_step(onnxruntime_runs: Callable) -> None:
    """Both add up in float32 and round once, but in another order: sums at the middle between two
    FP16 numbers fall to either side."""
    model = parse(
        """g (float[M, K] x, float[K, N] w) => (float[M, N] y)
        { h = Cast <to = 10> (x)  k = Cast <to = 10> (w)  a = MatMul (h, k)  y = Cast <to = 1> (a) }
        """
    )
    random = np.random.default_rng(0)
    feed = {"x": random.normal(size=(20, 48)), "w": random.normal(size=(48, 30))}
    feed = {name: value.astype(np.float32) for name, value in feed.items()}
    got, _ = onnxruntime_runs(round_fp16(model)[0], feed)
    (expected,) = ReferenceEvaluator(model).run(None, feed)
    step = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32)
    assert (np.abs(got - expected) <= step).all()
    assert (got == expected).mean() > 0.95
    np.testing.assert_array_equal(got, got.astype(np.float16))


@pytest.mark.parametrize("length", [0, 1, 5])
def test_peaks_are_the_largest_absolute_values(onnxruntime_runs: Callable, length: int) -> None:
    model = parse(
        """g (float[N] x) => (float[N] y)
        { h = Cast <to = 10> (x)  a = Neg (h)  b = Mul (a, a)  y = Cast <to = 1> (b) }"""
    )
    rounded, names = round_fp16(model)
    x = np.float32([3, -7, 2, 0, 5])[:length]
    result, peaks = onnxruntime_runs(rounded, {"x": x})
    assert names == ["h", "a", "b"]
    assert result.shape == (length,)
    largest = float(np.abs(x).max(initial=0))
    assert peaks.tolist() == [largest, largest, largest**2]
    assert peaks.dtype == np.float32


def test_a_peak_is_taken_before_rounding(onnxruntime_runs: Callable) -> None:
    model = parse("g (float[N] x) => (float[N] y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }")
    result, peaks = onnxruntime_runs(round_fp16(model)[0], {"x": np.float32([1, -70000])})
    assert result.tolist() == [1, -np.inf]
    assert peaks.tolist() == [70000]


def test_an_fp32_graph_stays_as_it_is() -> None:
    model = parse("g (float[N] x) => (float[N] y) { y = Neg (x) }")
    before = model.SerializeToString()
    rounded, names = round_fp16(model)
    assert (rounded.SerializeToString(), names) == (before, [])
    assert PEAKS not in [value.name for value in rounded.graph.output]


def test_the_source_stays_as_it_is() -> None:
    model = parse(CHAIN)
    before = model.SerializeToString()
    round_fp16(model)
    assert model.SerializeToString() == before
