"""What OpenVINO makes of the network, in float32 and BF16, next to onnxruntime on the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ppsr.export.openvino_surgery import OPENVINO_PASSES
from ppsr.export.proof import Proof
from ppsr.export.reproof import VerifyOptions, reprove
from ppsr.export.surgery import run_passes
from ppsr.models.errors import ArtefactError
from ppsr.models.pure_pass import purity_mask
from ppsr.runtime import Upscaler
from ppsr.runtime.metrics import psnr
from ppsr.runtime.sidecar import read_sidecar

openvino = pytest.importorskip("openvino")

DECIBEL = {"openvino": 45, "openvino-bf16": 35}
"""At least, between both on one file: rounding makes 130 and 50, a tie of categories some 50."""
SIZES = ((16, 16), (17, 40), (37, 50), (16, 160), (64, 64))
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
Pictures = list[npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def pictures(crops: Callable) -> Pictures:
    """Of many sizes and numbers of active tokens, from none to all."""
    flat = np.full((24, 40, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (40, 24, 3), np.uint8)
    taken = [*(crop.rgb for crop in crops(*SIZES)), flat, noise]
    shares = {purity_mask(rgb).mean() for rgb in taken}
    assert {0, 1} < shares
    return [rgb.astype(np.float32) / 255 for rgb in taken]


@pytest.mark.parametrize("device", DECIBEL)
@pytest.mark.parametrize("form", ["routed", "self-contained"])
@pytest.mark.parametrize("tuning", ["openvino", "any"])
def test_agrees_with_onnxruntime(
    publish: Callable, pictures: Pictures, tuning: str, form: str, device: str
) -> None:
    """The files for any runtime too; one picture after the other, and the first one again."""
    path = publish(form=form, tuning=tuning)
    with Upscaler.open(path, "cpu", 1) as up:
        assert up.artefact.tuned_for == tuning
        wanted = [up(picture) for picture in pictures]
    with Upscaler.open(path, device, 1) as up:
        got = [up(picture) for picture in (*pictures, pictures[0])]
    agreement = [
        psnr(ours.astype(np.float64), theirs.astype(np.float64))
        for ours, theirs in zip(got, wanted, strict=False)
    ]
    assert min(agreement) >= DECIBEL[device]
    if device == "openvino":
        assert np.median(agreement) > 100
    elif HAS_BF16:
        assert max(agreement) < 80, "this is no BF16"
    np.testing.assert_allclose(got[-1], got[0], rtol=0, atol=1e-6)


def test_a_graph_for_onnxruntime_is_refused_in_one_line(publish: Callable) -> None:
    """OpenVINO takes no Scan whose body reads tensors from outside."""
    with pytest.raises(ArtefactError, match="OpenVINO") as caught:
        Upscaler.open(publish(tuning="onnxruntime"), "openvino", 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0.5, None])
def test_the_first_of_the_largest(value: float | None) -> None:
    """As OpenVINO computes it, bit-equal ties among them."""
    onnx = pytest.importorskip("onnx")
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[1, R, 64] x) => (int64[R] y) <int64[1] flat = {-1}>
        { a = ArgMax <axis = -1, keepdims = 1> (x)  y = Reshape (a, flat) }"""
    )
    random = np.random.default_rng(0)
    scores = random.choice(random.normal(size=99).astype(np.float32), (1, 500, 64))
    scores = scores if value is None else np.full_like(scores, value)
    assert ((scores == scores.max(-1, keepdims=True)).sum(-1) > 1).any()
    operated = run_passes(model, OPENVINO_PASSES)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(
        core.read_model(operated.SerializeToString(), b""), "CPU", settings
    )
    (found,) = compiled({"x": scores}).values()
    np.testing.assert_array_equal(found, scores.argmax(-1)[0])


@pytest.fixture
def verified(tiny_reproof: None) -> Callable[..., Proof]:
    """``verified(path, device)``: ppsr-verify of a file against the tiny network."""
    return lambda path, device, **options: reprove(
        VerifyOptions(path, device=device, threads=1, **options)
    )


@pytest.mark.parametrize(
    ("device", "precision", "name"),
    [
        ("openvino", "fp32", "CPU, OpenVINO"),
        ("openvino-bf16", "bf16", "CPU, OpenVINO in BF16"),
    ],
)
@pytest.mark.parametrize("form", ["routed", "self-contained"])
def test_a_file_is_verified_as_openvino_runs_it(
    verified: Callable, publish: Callable, form: str, device: str, precision: str, name: str
) -> None:
    path: Path = publish(form=form, tuning="openvino")
    proof = verified(path, device)
    assert proof.failure is None
    assert proof.precision == precision
    assert proof.max_psnr_drop == (0.02 if precision == "bf16" else 0.01)
    assert proof.artefact["device"] == name
    assert proof.about["device"] == device
    assert proof.file_psnr is None, "every figure is the file's"
    for one in proof.figures:
        assert (one.same, one.flipped) == (None, None)
        assert one.psnr < 80 or precision == "fp32" or not HAS_BF16
    sidecar = read_sidecar(path)
    assert sidecar is not None
    assert sidecar.verification is not None
    assert sidecar.verification["passed"] is True


def test_a_file_that_is_wrong_is_found_out(verified: Callable, publish: Callable) -> None:
    from onnx import ModelProto, numpy_helper

    def change(model: ModelProto) -> None:
        (tensor,) = (one for one in model.graph.initializer if "upsample.0.weight" in one.name)
        values = numpy_helper.to_array(tensor) * np.float32(1.2)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    proof = verified(publish(tuning="openvino", change=change), "openvino")
    assert "agree to" in str(proof.failure) or "lower on average" in str(proof.failure)
