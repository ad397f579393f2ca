"""The networks that the papers compare Pure-Pass with, exported: their choices are proved too.

On networks of a few layers with random weights; what is exact up to rounding is so in both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch

from ppsr.export import graphs, pipeline
from ppsr.export.attention_nodes import share_weights
from ppsr.export.compose import join_front_end, write_metadata
from ppsr.export.cpu_layer import fold_for_cpu
from ppsr.export.engine import build_plan
from ppsr.export.fold import fold
from ppsr.export.graph_backend import category_tensors, choice_tensors
from ppsr.export.layers import require_fp16
from ppsr.export.naming import name_nodes
from ppsr.export.options import ATTENTION_OPSET, ExportOptions, Profile
from ppsr.export.precision import to_fp16
from ppsr.export.reference import Reference
from ppsr.export.trace import trace_front_end, trace_network
from ppsr.export.tuning import RECIPES
from ppsr.export.verify import MAX_GAP, GraphRun, Parity, verify
from ppsr.models.adaformer import AdaFormer
from ppsr.models.adaformer_config import AdaFormerConfig
from ppsr.models.atd import ATD
from ppsr.models.config import Config
from ppsr.models.errors import ParityError
from ppsr.models.registry import MODELS
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.feed import image_tensor
from ppsr.runtime.ort import open_session
from ppsr.runtime.sidecar import read_sidecar

Rgb = npt.NDArray[np.uint8]
SIZES = ((16, 16), (17, 40), (37, 50), (64, 64), (16, 280), (96, 130))
NAMES = ("camixer-atd-light", "adaformer")
OPSETS = {"any": 20, "onnxruntime": ATTENTION_OPSET}
LAYER = "layers.0.residual_group.layers."
EXITS = [f"body.exits.{n}.{kind}.choose" for n in (0, 1) for kind in ("tokens", "windows")]
CHOICES = {"camixer-atd-light": [f"{LAYER}{n}.attn_win.choose" for n in (0, 1)], "adaformer": EXITS}


@cache
def small(name: str) -> Any:
    """Two layers, or three blocks between two residual ones, so that some choose, not all."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        if name == "adaformer":
            network: Any = AdaFormer(AdaFormerConfig(scale=2, resblocks=2, blocks=3))
        else:
            network = ATD(Config(depths=(2,), ratio=0.5))
    network.weights_sha256 = "7" * 64
    return network.eval()


@cache
def body(name: str, tuning: Any = "any") -> onnx.ModelProto:
    recipe = RECIPES[tuning]
    model = trace_network(recipe.fold(small(name)), OPSETS[tuning])
    for _, stage in recipe.stages:
        model = stage(model)
    return model


def exported(
    name: str, form: Any = "routed", precision: Any = "fp32", tuning: Any = "any"
) -> tuple[onnx.ModelProto, Artefact]:
    model, network = body(name, tuning), small(name)
    if precision == "fp16":
        model = to_fp16(model, MODELS[name].islands)
    if form == "self-contained":
        front = name_nodes(trace_front_end(network, OPSETS[tuning]), root="front")
        model = join_front_end(model, front, 2)
    config = network.config
    settings = {"tuned_for": tuning, "ratio": config.ratio, "blocks": config.blocks}
    artefact = Artefact(
        MODELS[name].name, 2, form, precision, OPSETS[tuning], "7" * 64, "0.1.0", **settings
    )
    return write_metadata(share_weights(model), artefact), artefact


@pytest.mark.parametrize(
    ("name", "tuning"),
    [("camixer-atd-light", "any"), ("adaformer", "any"), ("adaformer", "onnxruntime")],
)
def test_graphs_do_what_the_networks_do(crops: Callable, name: str, tuning: Any) -> None:
    """Dense and sparse, both forms, sizes of which none was traced; a wrong weight is noticed."""
    pictures = [crop.rgb for crop in crops(*SIZES)]
    reference = Reference(small(name))
    reports = verify(*exported(name, tuning=tuning), reference, pictures, 1e-5)
    assert max(report.ties for report in reports) < 10
    model, artefact = exported(name, "self-contained", tuning=tuning)
    assert len(verify(model, artefact, reference, pictures[:3], 1e-5)) == 3
    spoilt = copy.deepcopy(small(name))
    with torch.no_grad():
        next(module for module in spoilt.modules() if isinstance(module, torch.nn.Linear)).weight[
            :, 0
        ] += 0.1
    with pytest.raises(ParityError):
        verify(model, artefact, Reference(spoilt), pictures[:3], 1e-5)


@pytest.mark.parametrize("form", ["routed", "self-contained"])
def test_adaformer_tells_how_many_blocks_attend(photo: Callable, form: Any) -> None:
    """As the network does, cropped as the picture is; but for ties, at most."""
    model, _ = exported("adaformer", form)
    rgb = photo("coffee", 32, 48) if form == "routed" else photo("coffee", 37, 50)
    image = image_tensor(rgb)
    got = open_session(model.SerializeToString()).run(["attended"], {"input": image})[0]
    kept = small("adaformer").halting(torch.from_numpy(image)).tokens
    assert got.shape == (1, 1, *rgb.shape[:2])
    assert np.unique(got).tolist() == [2, 3]
    assert (got != torch.stack(kept).sum(0).numpy()).sum() < 5


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_is_named_and_is_the_networks_own(photo: Callable, name: str) -> None:
    model, artefact = exported(name)
    assert sorted(choice_tensors(model)) == sorted(CHOICES[name])
    assert len(category_tensors(model)) == (2 if name == "camixer-atd-light" else 0)
    run, rgb = GraphRun(model, artefact), photo("coffee", 64, 96)
    chosen, free = run.chosen(run.run(rgb)), Reference(small(name)).run(rgb)
    assert chosen.keys() == free.choices.keys()
    windows = [chosen[path] for path in CHOICES[name]]
    if name == "camixer-atd-light":
        assert [len(set(one.tolist())) for one in windows] == [12, 12]  # of 24
    else:
        assert {one.dtype for one in windows} == {np.dtype(bool)}
        assert any(0 < one.mean() < 1 for one in windows)


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_that_is_no_tie_is_seen(photo: Callable, name: str) -> None:
    """A graph that chooses the opposite: imposed on the network, it gives the same picture."""
    model, artefact = exported(name)
    spoilt = onnx.ModelProto.FromString(model.SerializeToString())
    path = CHOICES[name][0]
    for node in list(spoilt.graph.node):
        if choice_tensors(model)[path] not in node.output:
            continue
        if node.op_type == "Less":
            node.op_type = "GreaterOrEqual"
        else:
            (largest,) = (one for one in node.attribute if one.name == "largest")
            largest.i = 0
    report = GraphRun(spoilt, artefact).compare(Reference(small(name)), photo("coffee", 64, 96))
    assert report.ties > 5
    assert report.gap > 10 * MAX_GAP
    assert report.max_abs < 1e-5
    assert "choice is off by" in str(report.failure("fp32", 1e-5))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_keeps_what_decides_in_float32(photo: Callable, name: str) -> None:
    pictures = [photo("coffee", 37, 50), photo("chelsea", 64, 64)]
    reports = verify(*exported(name, precision="fp16"), Reference(small(name)), pictures, 1e-5)
    assert all(report.peak is not None for report in reports)


def test_a_tie_may_cost_more_where_scores_decide() -> None:
    report = Parity(16, 16, 256, psnr=28.0, flipped=0.2, max_abs=2e-3, ties=9, gap=1e-3, peak=60.0)
    assert report.failure("fp16", 1e-5, MODELS["camixer-atd-light"].routing) is None
    assert "agree to 28.0 dB" in str(report.failure("fp16", 1e-5, MODELS["atd-light"].routing))
    assert "agree to 19.0 dB" in str(replace(report, psnr=19.0).failure("fp16", 1e-5, "scores"))


@pytest.mark.parametrize("name", NAMES)
def test_rewrites_leave_alone_what_is_not_there(photo: Callable, name: str) -> None:
    image = torch.from_numpy(photo("coffee", 48, 64)).permute(2, 0, 1).unsqueeze(0) / 255
    network, rewrites = small(name), [fold]
    rewrites += [fold_for_cpu] if "onnxruntime" in MODELS[name].cpu else []
    with torch.no_grad():
        expected = network(image)
        for rewrite in rewrites:
            assert (rewrite(network)(image) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_pipeline_publishes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, name: str
) -> None:
    """Without an engine for onnxruntime; the ratio is in the name and in what lies beside."""
    monkeypatch.setattr(pipeline, "build", lambda *_, **__: small(name))
    monkeypatch.setattr(graphs, "VERIFIED_SIZES", ((16, 16), (37, 50)))
    options = ExportOptions(model=MODELS[name].name, output=tmp_path, target="onnxruntime")
    made = pipeline.export_model(options)
    stem = {
        "camixer-atd-light": "camixer-atd-light-0.5_x2_fp32",
        "adaformer": "adaformer_x2_fp32",
    }[name]
    tuned = "" if name == "camixer-atd-light" else "_onnxruntime"
    expected = [f"{stem}{tuned}.onnx", f"{stem}_routed{tuned}.onnx"]
    assert [path.name for path in made.paths] == expected
    assert made.plan is None
    sidecar = read_sidecar(made.paths[1])
    assert sidecar is not None
    assert sidecar.artefact.ratio == small(name).config.ratio


@pytest.mark.rtx
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_build(name: str, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    model, _ = exported(name, precision=precision)
    profile = Profile((16, 16), (64, 80), (720, 1280)).shape_range(False)
    built = build_plan(model, [profile], "tensorrt-rtx")
    assert len(built.plan) > 1_000_000
    if precision == "fp16":
        require_fp16(built.layers, MODELS[name].islands)
