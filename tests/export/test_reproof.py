"""Verifying published files: the genuine ones pass, and each kind of wrong one is caught."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from ppsr.export import contestants, reproof
from ppsr.export.compose import join_front_end, write_metadata
from ppsr.export.naming import name_nodes
from ppsr.export.proof import Figures, Proof, Quality
from ppsr.export.reproof import VerifyOptions, reprove
from ppsr.export.trace import trace_front_end
from ppsr.export.verify import Parity
from ppsr.models.atd import ATD
from ppsr.models.config import PurePass
from ppsr.models.errors import ArtefactError, ParityError, PictureError, PpsrError, UsageError
from ppsr.models.routing import PurityMask
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT
from ppsr.runtime.backend import ROUTING
from ppsr.runtime.dataset import find_sets
from ppsr.runtime.evaluation import Method, evaluate
from ppsr.runtime.sidecar import Plan, ShapeRange, Sidecar, read_sidecar, sha256, sidecar_path
from ppsr.runtime.upscaler import Upscaler

FORMS = ("self-contained", "routed")
SAME = Parity(24, 24, 9, 150.0, 0.0, 4e-7, 0, 0.0)
GOOD = Figures(
    picture="a",
    size=(24, 24),
    psnr=60.0,
    max_abs=1e-3,
    not_finite=0,
    reference=Quality(30.0, 0.9),
    artefact=Quality(30.0, 0.9),
    mask_agreement=1.0,
    flipped=0.0,
    same=SAME,
)


def scaled(
    factor: float, part: str = "depthwise_conv.0.weight"
) -> Callable[[onnx.ModelProto], None]:
    """Multiply the last weight of this name."""

    def change(model: onnx.ModelProto) -> None:
        tensor = [tensor for tensor in model.graph.initializer if part in tensor.name][-1]
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(
            numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name)
        )

    return change


def verify(path: Path, reference: Path | None = None, **options: Any) -> Proof:
    return reprove(VerifyOptions(path, reference, threads=1, device="cpu", **options))


@pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("form", FORMS)
def test_a_genuine_file_passes(
    tiny_reproof: None, publish: Callable, form: str, fp16: bool
) -> None:
    path = publish(form=form, fp16=fp16)
    before = read_sidecar(path)
    proof = verify(path)
    assert proof.failure is None
    assert proof.max_psnr_drop == (0.02 if fp16 else 0.01)
    assert [one.size for one in proof.figures] == [(24, 24), (32, 50)]
    for one in proof.figures:
        assert one.mask_agreement == 1
        assert one.not_finite == 0
        assert one.flipped is not None
        assert one.same is not None
        assert one.same.max_abs < (5e-3 if fp16 else 1e-5)
        assert (one.psnr < 90) == fp16
        assert 20 < one.artefact.psnr_y < 50
    assert proof.file_psnr is not None
    assert proof.file_psnr > 60
    after = read_sidecar(path)
    assert after is not None
    assert after.verification == json.loads(json.dumps(proof.to_json()))
    assert replace(after, verification=None) == before
    assert after.verification["passed"] is True
    assert after.verification["reference"]["name"] == "pp-atd-light in torch, shipped weights"
    assert {"ppsr", "torch", "onnxruntime"} <= set(after.verification["versions"])
    assert str(path.parent) not in sidecar_path(path).read_text()


@pytest.mark.parametrize("form", FORMS)
def test_the_shipped_network_passes(
    publish: Callable, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(reproof, "SIZES", ((64, 74),))
    proof = verify(publish("pp-atd-light", form))
    assert proof.failure is None
    (one,) = proof.figures
    assert one.same is not None
    assert one.same.max_abs <= 1e-5


def test_a_weight_of_the_shipped_network_changed_by_a_hundredth_is_caught(
    publish: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproof, "SIZES", ((64, 74),))
    path = publish("pp-atd-light", change=scaled(1.01))
    assert "on equal categories" in str(verify(path).failure)


@pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
def test_two_forms_of_one_network_agree(tiny_reproof: None, publish: Callable, fp16: bool) -> None:
    path, reference = publish(form="self-contained", fp16=fp16), publish(form="routed")
    proof = verify(path, reference)
    assert proof.failure is None
    assert proof.reference["name"] == reference.name
    assert proof.reference["sha256"] == sha256(reference.read_bytes())
    assert all(one.same is None and one.mask_agreement == 1 for one in proof.figures)
    assert all((one.flipped == 0 and one.psnr > 100) != fp16 for one in proof.figures)


@pytest.mark.parametrize(("fp16", "factor"), [(False, 1.01), (True, 0.5)], ids=["fp32", "fp16"])
def test_a_changed_weight_is_caught_though_the_truth_does_not_tell(
    tiny_reproof: None, publish: Callable, fp16: bool, factor: float
) -> None:
    path = publish(fp16=fp16, change=scaled(factor))
    proof = verify(path, max_psnr_drop=9)
    assert proof.drop < 9
    assert "on equal categories outputs differ by" in str(proof.failure)
    sidecar = read_sidecar(path)
    assert sidecar is not None
    assert sidecar.verification is not None
    assert sidecar.verification["passed"] is False
    assert sidecar.verification["failure"] == proof.failure


def test_a_changed_weight_is_caught_against_another_file(
    tiny_reproof: None, publish: Callable
) -> None:
    good, bad = publish(), publish(file="bad.onnx", change=scaled(1.2, "upsample.0.weight"))
    proof = verify(bad, good)
    assert "outputs agree to" in str(proof.failure) or "lower on average" in str(proof.failure)
    assert all(one.same is None for one in proof.figures)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_counted(
    tiny_reproof: None, publish: Callable, value: float
) -> None:
    path = publish(change=scaled(value, "upsample.0.bias"))
    proof = verify(path)
    assert proof.figures[0].not_finite == 3 * 48 * 48
    assert proof.failure is not None
    assert "6912 values of the output are not finite, expected none" in proof.failure
    sidecar = read_sidecar(path)  # Strict JSON in spite of them.
    assert sidecar is not None
    assert sidecar.verification is not None
    assert sidecar.verification["overall"]["not_finite"] > 6912
    assert sidecar.verification["overall"]["psnr_y"]["drop"] is None


def test_a_reference_that_is_broken_itself(tiny_reproof: None, publish: Callable) -> None:
    bad = publish(file="bad.onnx", change=scaled(np.nan, "upsample.0.bias"))
    with pytest.raises(PpsrError, match=r"bad.onnx itself returns values that are not finite"):
        verify(publish(), bad)


def test_another_mask_is_caught(
    tiny_reproof: None, body: Callable, graph: Callable, network: Callable, publish: Callable
) -> None:
    other = copy.deepcopy(network())
    other.purity = PurityMask(PurePass(shift=0))
    front = name_nodes(trace_front_end(other, 20), root="front")
    wrong = write_metadata(
        join_front_end(body(), front, 2), graph("tiny", "self-contained")[1]
    ).SerializeToString()
    path = publish(form="self-contained", change=lambda model: model.ParseFromString(wrong))
    proof = verify(path)
    assert "of its pixels are routed otherwise than by the reference" in str(proof.failure)
    assert min(one.mask_agreement or 0 for one in proof.figures) < 1


def test_a_graph_that_hides_its_categories_is_no_pass(
    tiny_reproof: None, publish: Callable
) -> None:
    def hide(model: onnx.ModelProto) -> None:
        """ArgMax -> TopK of one, which is the same."""
        for node in list(model.graph.node):
            if node.op_type == "ArgMax":
                name, (scores,), (chosen,) = f"{node.name}/top", node.input, node.output
                axes = [f"{name}/{part}" for part in ("one", "values", "indices", "axis")]
                one, last = (np.array([value]) for value in (1, -1))
                model.graph.initializer.append(numpy_helper.from_array(one, axes[0]))
                model.graph.initializer.append(numpy_helper.from_array(last, axes[3]))
                top = onnx.helper.make_node("TopK", [scores, axes[0]], axes[1:3])
                squeeze = onnx.helper.make_node("Squeeze", [axes[2], axes[3]], [chosen])
                at = list(model.graph.node).index(node)
                model.graph.node.remove(node)
                model.graph.node.insert(at, squeeze)
                model.graph.node.insert(at, top)

    with pytest.raises(ParityError, match="2 places where choices are made, the graph has 0"):
        verify(publish(change=hide))


def test_a_file_whose_bytes_changed_is_caught_before_it_is_loaded(
    publish: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "open_backend", None)
    path = publish()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = sidecar_path(path).read_bytes()
    with pytest.raises(ParityError, match=r"describes another file: .* has SHA-256"):
        verify(path)
    assert sidecar_path(path).read_bytes() == before


def test_a_swapped_sidecar_is_caught(publish: Callable) -> None:
    path, other = publish(form="self-contained"), publish(form="routed")
    sidecar_path(path).write_bytes(sidecar_path(other).read_bytes())
    with pytest.raises(ParityError, match=r"describes another file: .* has SHA-256"):
        verify(path)
    with pytest.raises(ParityError, match="describes another file"):
        verify(other, path)


def test_a_swapped_sidecar_with_the_right_hash_is_caught(publish: Callable) -> None:
    path, other = publish(form="self-contained"), publish(form="routed")
    told = read_sidecar(other)
    assert told is not None
    forged = replace(told, onnx_sha256=sha256(path.read_bytes()))
    sidecar_path(path).write_text(forged.to_text())
    with pytest.raises(ParityError, match="has form self-contained, expected is form routed"):
        verify(path)


def test_the_description_of_an_engine_beside_an_onnx_file(publish: Callable) -> None:
    path = publish()
    told = read_sidecar(path)
    assert told is not None
    plan = replace(told, plan=Plan("tensorrt-rtx", "1.7.1.116", told.onnx_sha256))
    sidecar_path(path).write_text(plan.to_text())
    with pytest.raises(ParityError, match="has an ONNX file, expected is an engine"):
        verify(path)


def test_without_a_sidecar_it_says_so_and_makes_none(tiny_reproof: None, publish: Callable) -> None:
    path = publish(sidecar=False)
    proof = verify(path)
    assert proof.failure is None
    assert "no hash was compared, and the figures are not recorded" in proof.notes[0]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_sidecar_that_changes_meanwhile_is_left_alone(
    tiny_reproof: None, publish: Callable
) -> None:
    path = publish()

    def republish(_name: str) -> None:
        sidecar_path(path).write_text(sidecar_path(path).read_text().replace("10:00", "11:00"))

    with pytest.raises(PpsrError, match="changed meanwhile; verify the file again"):
        reprove(VerifyOptions(path, threads=1), republish)
    told = read_sidecar(path)
    assert told is not None
    assert (told.date, told.verification) == ("2026-11-20T11:00:00+00:00", None)


def test_pictures_of_your_own(
    tiny_reproof: None, publish: Callable, photo: Callable, tmp_path: Path
) -> None:
    path, folder = publish(), tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(photo("chelsea", 49, 64)).save(folder / "deep" / "[a].png")
    Image.fromarray(photo("coffee", 40, 40)).convert("L").save(folder / "b.png")
    Image.fromarray(photo("rocket", 20, 20)).save(tmp_path / "c.png")
    proof = verify(path, data=(folder, tmp_path / "c.png"))
    assert proof.failure is None
    assert [(one.picture, one.size) for one in proof.figures] == [
        *(("set/b.png", (20, 20)), ("set/deep/[a].png", (24, 32)), ("c.png", (10, 10))),
    ]
    assert proof.about["data"] == ["set", "c.png"]
    with pytest.raises(UsageError, match="given twice"):
        verify(path, data=(tmp_path / "c.png", tmp_path / "set" / ".." / "c.png"))
    Image.fromarray(photo("rocket", 15, 20)).save(tmp_path / "c.png")
    with pytest.raises(PictureError, match="too small to measure at x2"):
        verify(path, data=(tmp_path / "c.png",))


def test_the_truth_is_compared_as_ppsr_eval_does(
    tiny_reproof: None, publish: Callable, photo: Callable, tmp_path: Path
) -> None:
    path, folder = publish(), tmp_path / "set"
    folder.mkdir()
    Image.fromarray(photo("chelsea", 49, 64)).save(folder / "a.png")
    (one,) = verify(path, data=(folder,)).figures
    with Upscaler.open(path, device="cpu", threads=1) as upscaler:
        method = Method("m", upscaler.upscale, {})
        (row,) = evaluate([method], find_sets([folder]), 2).rows
    assert (one.artefact.psnr_y, one.artefact.ssim_y) == (row.score.psnr_y, row.score.ssim_y)


def test_what_is_no_reference(tiny_reproof: None, publish: Callable, graph: Callable) -> None:
    path = publish()

    def called(**changes: Any) -> Callable[[onnx.ModelProto], None]:
        artefact = replace(graph()[1], **changes)
        return lambda model: onnx.helper.set_model_props(model, artefact.to_metadata())

    for changes, words in (
        ({"scale": 3}, "expected scale 2, got 3"),
        ({"weights_sha256": "8" * 64}, f"expected weights_sha256 {'7' * 12}, got {'8' * 12};"),
        ({"pure_pass": PurePass(shift=0)}, "expected pure_pass"),
    ):
        other = publish(file="other.onnx", change=called(**changes), sidecar=False)
        with pytest.raises(UsageError, match=words):
            verify(path, other)
    for reference in (path, path.with_name("link.onnx")):
        if reference != path:
            reference.symlink_to(path)
        with pytest.raises(UsageError, match="is the artefact itself"):
            verify(path, reference)
    with pytest.raises(UsageError, match="--weights is for the network in torch"):
        verify(path, other, weights="default")
    with pytest.raises(ArtefactError, match=r"cannot read .*no.onnx"):
        verify(path, path.with_name("no.onnx"))


def test_other_weights_are_no_reference(publish: Callable) -> None:
    """The tiny network has a hash of its own: here the shipped weights are built."""
    words = "made from the weights 777777777777, got .* (the shipped ones).*--weights"
    with pytest.raises(UsageError, match=words.replace("(", r"\(").replace(")", r"\)")):
        verify(publish())


class FakeEngine:
    """What the TensorRT backend is, on torch: takes sizes from 64 x 48 on."""

    device = "CUDA"
    profiles = (ShapeRange((64, 48), (64, 64), (128, 128)),)

    def __init__(self, network: ATD, artefact: Any, routes: bool) -> None:
        self.network, self.artefact, self.routes = network, artefact, routes
        self.wants_active = not routes
        self.closed = False
        self.add = 0.0

    def run(self, feed: Any) -> dict[str, Any]:
        image = torch.from_numpy(feed[INPUT])
        assert image.shape[2] >= 64
        assert image.shape[3] >= 48
        assert (ACTIVE in feed) == self.wants_active
        assert self.network.purity is not None
        active = (~self.network.purity(image).flatten()).nonzero().squeeze(1)
        if ACTIVE in feed:
            active = torch.from_numpy(feed[ACTIVE])
        with torch.no_grad():
            output = self.network.upscale(image, active).numpy() + np.float32(self.add)
        told = {ACTIVE: active.numpy(), ROUTING: np.array(1.0)} if self.routes else {}
        return {OUTPUT: output, **told}

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("routes", [True, False], ids=["routes", "told"])
def test_an_engine_is_verified_on_what_it_takes(
    tiny_reproof: None,
    network: Callable,
    graph: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    routes: bool,
) -> None:
    """The smaller pictures are mirrored for both: what they see stays the same."""
    engine = FakeEngine(network(), graph()[1], routes)
    monkeypatch.setattr(contestants, "open_backend", lambda *_: engine)
    path = tmp_path / "e.plan"
    path.write_bytes(b"plan")
    told = Sidecar(engine.artefact, "0" * 64, plan=Plan("tensorrt-rtx", "1.7.1", sha256(b"plan")))
    sidecar_path(path).write_text(told.to_text())
    proof = verify(path)
    assert proof.failure is None
    assert engine.closed
    assert (proof.artefact["device"], proof.file_psnr) == ("CUDA", None)
    assert [one.size for one in proof.figures] == [(24, 24), (32, 50)]
    for one in proof.figures:
        assert (one.mask_agreement, one.flipped, one.same) == (1, None, None)
        assert one.psnr > 100
    engine.add = 0.02
    assert "outputs agree to 34.0 dB, needed are 40" in str(verify(path).failure)
    path.write_bytes(b"another")
    with pytest.raises(ParityError, match="describes another file"):
        verify(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"not_finite": 2}, "a: 2 values of the output are not finite, expected none"),
        ({"mask_agreement": 0.75}, "a: 0.25 of its pixels are routed otherwise"),
        ({"mask_agreement": None}, None),
        ({"psnr": 39.0}, "a: outputs agree to 39.0 dB, needed are 40"),
        ({"psnr": math.inf}, None),
        ({"psnr": math.nan}, "agree to nan dB"),
        ({"same": replace(SAME, max_abs=2e-5)}, "a: on equal categories outputs differ by 2e-05"),
        ({"artefact": Quality(29.985, 0.9)}, "0.0075 dB lower on average, allowed is 0.005"),
        ({"artefact": Quality(29.991, 0.9)}, None),
        ({"artefact": Quality(math.inf, 1.0)}, None),
        ({"reference": Quality(math.inf, 1.0)}, "inf dB lower on average"),
        ({"artefact": Quality(math.nan, math.nan)}, "nan dB lower"),
    ],
)
def test_what_fails_a_proof(changes: dict[str, Any], message: str | None) -> None:
    """On average: another picture loses nothing."""
    figures = (replace(GOOD, **changes), replace(GOOD, picture="b"))
    proof = Proof({"model": "atd-light"}, {}, "fp32", 0.005, figures, 60.0, {})
    assert (proof.failure is None) == (message is None)
    assert (message or "") in (proof.failure or "")
    json.dumps(proof.to_json(), allow_nan=False)
    least = None if math.isnan(figures[0].psnr) else min(figures[0].psnr, 60.0)
    assert proof.overall()["psnr_least"] == least
    assert "the file itself agrees to 12.0 dB" in str(
        replace(proof, figures=(GOOD,), file_psnr=12.0).failure
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_psnr_drop": -0.1}, "0 dB or more, got -0.1"),
        ({"max_psnr_drop": math.nan}, "0 dB or more, got nan"),
        ({"device": "tpu"}, "expected a device"),
        ({"threads": 0}, "threads"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        VerifyOptions(Path("a.onnx"), **options)
