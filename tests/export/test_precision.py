"""FP16: what is in which type, and that the result is as good as promised where it is run so."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from ppsr.export.islands import ISLANDS, Island
from ppsr.export.precision import to_fp16
from ppsr.export.reference import Reference
from ppsr.export.verify import MAX_PEAK, GraphRun
from ppsr.models.errors import PrecisionError
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT
from ppsr.runtime.ort import open_session

FLOAT, HALF, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64
HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
SMALL = "g (float[N] x) => (float[N] y) <float {name} = {{{value}}}> {{ y = Mul (x, {name}) }}"


def parse(text: str) -> onnx.ModelProto:
    model: onnx.ModelProto = parser.parse_model(HEADER + text)
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    return model


def types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor; inference fails where two types meet in a node."""
    typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    graph = typed.graph
    found = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("name", ["pp-atd-light", "atd-light"])
def test_islands_are_fp32_and_the_rest_is_fp16(graph: Callable, name: str) -> None:
    model = graph(name, fp16=True)[0]
    found = types(model)
    counted = {island.name: 0 for island in ISLANDS} | {"none": 0}
    for node in model.graph.node:
        if node.name.startswith("cast/"):
            continue
        homes = [island.name for island in ISLANDS if re.search(island.pattern, node.name)] or [
            "none"
        ]
        expected = HALF if homes == ["none"] else FLOAT
        tensors = (
            [*node.output]
            if node.op_type in ("Shape", "Size", "Cast")
            else [
                *node.input,
                *node.output,
            ]
        )
        floats = {found[tensor] for tensor in tensors if tensor} & {FLOAT, HALF}
        assert floats <= {expected}, f"{node.name}: {floats}"
        for home in homes:
            counted[home] += bool(floats)
    assert min(counted.values()) >= 4 * 24
    assert {v.name: found[v.name] for v in (*model.graph.input, *model.graph.output)} == {
        INPUT: FLOAT,
        OUTPUT: FLOAT,
        **({ACTIVE: INT64} if name == "pp-atd-light" else {}),
    }


def test_no_tensor_is_cast_twice_to_one_type(graph: Callable) -> None:
    casts = [n for n in graph("pp-atd-light", fp16=True)[0].graph.node if n.op_type == "Cast"]
    pairs = [(node.input[0], node.attribute[0].i) for node in casts]
    assert len(set(pairs)) == len(pairs)


def test_the_file_is_half_as_large(graph: Callable) -> None:
    sizes = [len(graph("pp-atd-light", fp16=fp16)[0].SerializeToString()) for fp16 in (True, False)]
    assert sizes[0] < 0.75 * sizes[1]


def test_the_source_stays_as_it_is(body: Callable) -> None:
    before = body().SerializeToString()
    to_fp16(body())
    assert body().SerializeToString() == before


@pytest.fixture(scope="module")
def fp16(running: Callable) -> GraphRun:
    """PP-ATD-light in FP16, every FP16 tensor really rounded."""
    run: GraphRun = running("pp-atd-light", fp16=True)
    return run


def test_photos_come_out_alike(fp16: GraphRun, network: Callable, crops: Callable) -> None:
    """On photos, not on scraps: a tie alone can leave a small crop below 50 dB (docs/parity.md)."""
    for crop in crops((96, 96), (80, 120), (96, 96)):
        report = fp16.compare(Reference(network("pp-atd-light")), crop.rgb)
        print(f"{crop.source} {crop.pure:.2f} pure: {report.psnr:.1f} dB, peak {report.peak:.0f}")
        assert report.failure("fp16", 1e-4) is None
        assert 45 <= report.psnr < 90, "this did not run in FP16"


def test_fifty_crops_stay_far_from_overflow(fp16: GraphRun, crops: Callable) -> None:
    pictures = [crop.rgb for crop in crops(*[(48, 48)] * 4, *[(32, 32)] * 46)]
    pictures += [np.full((32, 32, 3), value, np.uint8) for value in (0, 255)]
    peaks = []
    for rgb in pictures:
        got = fp16.run(rgb)
        assert np.isfinite(got[OUTPUT]).all()
        peaks.append(got["peaks"])
    assert np.isfinite(peaks).all()
    assert 1 < np.max(peaks) < MAX_PEAK
    print(f"largest FP16 value of {len(pictures)} crops: {np.max(peaks):.0f}")


def test_overflow_is_seen(graph: Callable, network: Callable, photo: Callable) -> None:
    """One weight x 30000, which FP16 holds, but not what it makes. The CPU alone sees nothing."""
    source, artefact = graph(fp16=True)
    model = onnx.ModelProto()
    model.CopyFrom(source)
    (name,) = (
        node.input[1]
        for node in model.graph.node
        if re.search(r"layers\.0\.convffn/Conv$", node.name)
    )
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(weight).astype(np.float32) * 30_000
    assert np.abs(values).max() < 65504
    weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name))

    report = GraphRun(model, artefact).compare(Reference(network()), photo())
    assert report.peak is not None
    assert not report.peak <= MAX_PEAK
    assert report.failure("fp16", 1e-4) is not None

    session = open_session(model.SerializeToString(), threads=1, optimise=False)
    image = np.full((1, 3, 16, 16), 0.5, np.float32)
    assert np.isfinite(session.run([OUTPUT], {INPUT: image, ACTIVE: np.arange(200)})[0]).all()


@pytest.mark.parametrize("value", ["100000.0", "-70000.0", "1e-9", "-1e-8"])
def test_a_constant_that_fp16_cannot_hold_is_refused(value: str) -> None:
    model = parse(SMALL.format(name="much", value=value))
    with pytest.raises(
        PrecisionError, match=r"Mul_0 uses [-\de.+]+, which FP16 cannot hold; export without --fp16"
    ):
        to_fp16(model, ())
    held = to_fp16(model, [Island("here", "Mul_0", "too large or small")])
    assert types(held) == types(model)


@pytest.mark.parametrize("value", ["0.0", "65504.0", "-1e4", "1e-7", "inf"])
def test_a_constant_that_fp16_holds_is_taken(value: str) -> None:
    model = parse(SMALL.format(name="fine", value="0.0"))
    tensor = numpy_helper.from_array(np.array(float(value), np.float32), "fine")
    model.graph.initializer[0].CopyFrom(tensor)
    assert types(to_fp16(model, ()))["fine_fp16"] == HALF


def test_one_lost_value_among_many_is_refused() -> None:
    model = parse(
        "g (float[3] x) => (float[3] y) <float[3] c = {1.0, 2.0, 1e-6}> { y = Mul (x, c) }"
    )
    assert types(to_fp16(model, ()))["c_fp16"] == HALF
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.array([1, 1e6, 2], np.float32), "c")
    )
    with pytest.raises(PrecisionError, match=r"uses 1e\+06, which FP16 cannot hold"):
        to_fp16(model, ())


def test_an_island_by_hand() -> None:
    """x -> Neg (half) -> Exp (island) -> Abs, Sqrt (half): one cast at each border."""
    model = parse(
        """g (float[N] x) => (float[N] y, float[N] z)
        { a = Neg (x)  b = Exp (a)  y = Abs (b)  z = Sqrt (b) }"""
    )
    made = to_fp16(model, [Island("exp", "^Exp_", "")])
    found = types(made)
    assert (found["x"], found["y"], found["z"]) == (FLOAT, FLOAT, FLOAT)
    assert (found["a"], found["b"], found["y_fp16"]) == (HALF, FLOAT, HALF)
    assert [node.op_type for node in made.graph.node] == [
        *("Cast", "Neg", "Cast", "Exp", "Cast", "Abs", "Cast", "Sqrt", "Cast"),
    ]


def test_nodes_that_choose_their_type_choose_fp16() -> None:
    model = parse(
        """g (int64[N] i, float[N] x) => (float[N] y, int64[N] j)
        {
            f = Cast <to = 1> (i)
            s = Shape (x)
            ones = ConstantOfShape <value = float[1] {1.0}> (s)
            a = Add (f, ones)
            y = Mul (a, x)
            j = Cast <to = 7> (a)
        }"""
    )
    found = types(to_fp16(model, ()))
    assert (found["f"], found["ones"], found["a"], found["j"]) == (HALF, HALF, HALF, INT64)
