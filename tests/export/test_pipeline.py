"""The export from Python: what is published, and that a failure publishes nothing."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from ppsr.calibration.photo import sample_photo
from ppsr.export import export, graphs, pipeline
from ppsr.export.cpu_layer import ChunkedLayer
from ppsr.export.options import ExportOptions, Profile
from ppsr.export.pipeline import export_model
from ppsr.models.errors import CheckpointError, ParityError, PpsrError, UsageError
from ppsr.runtime import Upscaler
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.sidecar import sidecar_path

SHIPPED = Path(__file__).parents[2] / "models" / "pp_atd_light_x2.safetensors"
STEMS = ("pp-atd-light_x2_fp32", "pp-atd-light_x2_fp32_routed", "pp-atd-light_routing")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def perturbed(tiny_export: None, network: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of the network is not the one that was traced."""
    changed = copy.deepcopy(network())
    with torch.no_grad():
        changed.layers[0].residual_group.layers[1].attn_win.proj.weight.mul_(1.1)
    monkeypatch.setattr(pipeline, "build", lambda *_, **__: changed)


def test_both_forms_are_published_with_their_description(
    tiny_export: None, network: Callable, tmp_path: Path
) -> None:
    stages: list[str] = []

    @contextmanager
    def progress(stage: str) -> Any:
        stages.append(stage)
        yield

    profile = Profile((16, 16), (64, 64), (128, 128))
    folder = tmp_path / "new" / "folder"
    options = ExportOptions(output=folder, target="onnx", profiles=(profile,))
    made = export_model(options, progress)
    assert made.paths == tuple(folder / f"{stem}.onnx" for stem in STEMS[:2])
    assert made.plan is None
    assert files(options.output) == sorted(
        f"{s}{e}" for s in STEMS for e in (".onnx", ".onnx.json")
    )
    assert stages == [
        *("load weights", "trace the network", "name the nodes", "graph surgery"),
        *("trace the front end", "join the front end", "share the weights", "metadata"),
        *("verify self-contained fp32", "share the weights", "metadata", "verify routed fp32"),
        *("trace the routing", "graph surgery", "metadata"),
        *("verify the routing", "publish"),
    ]
    for exported in made.models:
        data = exported.path.read_bytes()
        model = onnx.ModelProto.FromString(data)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert Artefact.from_metadata(metadata, "it") == exported.artefact
        assert exported.artefact.weights_sha256 == network().weights_sha256
        sidecar = json.loads(sidecar_path(exported.path).read_text())
        assert metadata.items() <= sidecar.items()
        assert sidecar["onnx_sha256"] == hashlib.sha256(data).hexdigest()
        assert sidecar["versions"]["torch"] == torch.__version__
        assert sidecar["versions"]["onnx"] == onnx.__version__
        form = exported.artefact.form
        sizes = [] if form == "routing" else [(16, 16), (37, 50)]
        assert [(p["height"], p["width"]) for p in sidecar["parity"]] == sizes
        for report, told in zip(exported.parity, sidecar["parity"], strict=True):
            assert told["max_abs"] == report.max_abs <= 1e-4
            assert told["psnr"] > 60
        shapes = {"min": [16, 16], "opt": [64, 64], "max": [128, 128]}
        routed = {**shapes, "tokens": [0, 2458, 128 * 128]}
        told = {"self-contained": [], "routed": [routed], "routing": [shapes]}
        assert sidecar["profiles"] == told[form]


def test_what_is_published_runs(tiny_export: None, tmp_path: Path) -> None:
    paths = export(target="onnx", scale=2, output=str(tmp_path))
    assert paths == [tmp_path / f"{stem}.onnx" for stem in STEMS[:2]]
    rgb = sample_photo()[100:137, 50:90]
    outputs = []
    for path in paths:
        with Upscaler.open(path, device="cpu") as upscaler:
            outputs.append(upscaler(rgb))
    assert outputs[0].shape == (74, 80, 3)
    assert (outputs[0] == outputs[1]).all()


@pytest.mark.parametrize(
    ("target", "stage"),
    [("onnxruntime", "attention in chunks"), ("openvino", "attention for OpenVINO")],
)
def test_files_for_one_runtime_say_so(
    tiny_export: None,
    traced: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    stage: str,
) -> None:
    """Beside those for any, under names of their own; one routing serves them all."""
    folded: list[int] = []

    def trace(network: torch.nn.Module, _opset: int) -> onnx.ModelProto:
        folded.append(sum(isinstance(module, ChunkedLayer) for module in network.modules()))
        return traced("tiny", target)

    stages: list[str] = []

    @contextmanager
    def progress(name: str) -> Any:
        stages.append(name)
        yield

    monkeypatch.setattr(pipeline, "trace_network", trace)
    made = export_model(ExportOptions(target=target, output=tmp_path), progress)
    names = [f"{stem}_{target}.onnx" for stem in STEMS[:2]]
    assert [path.name for path in made.paths] == names
    assert made.plan is None
    assert folded == [2]
    assert stages[1:5] == ["trace the network", "name the nodes", stage, "graph surgery"]
    assert files(tmp_path) == sorted(
        f"{name}{end}" for name in (*names, f"{STEMS[2]}.onnx") for end in ("", ".json")
    )
    rgb = sample_photo()[100:137, 50:90]
    outputs = []
    for exported in made.models:
        form = exported.artefact.form
        tuned_for = "any" if form == "routing" else target
        assert exported.artefact.tuned_for == tuned_for
        assert json.loads(sidecar_path(exported.path).read_text())["tuned_for"] == tuned_for
        assert exported.parity or form == "routing"
        assert all(report.max_abs <= 1e-5 for report in exported.parity)
        if form != "routing":
            with Upscaler.open(exported.path, device="cpu") as upscaler:
                assert upscaler.artefact == exported.artefact
                outputs.append(upscaler(rgb))
    assert (outputs[0] == outputs[1]).all()


def test_fp16_says_so(tiny_export: None, tmp_path: Path) -> None:
    (path,) = export(target="onnx", scale=2, fp16=True, form="routed", output=tmp_path)
    assert path.name == "pp-atd-light_x2_fp16_routed.onnx"
    sidecar = json.loads(sidecar_path(path).read_text())
    assert sidecar["precision"] == "fp16"
    assert all(1 < report["peak"] < 16_000 for report in sidecar["parity"])


def test_sidecars_are_strict_json(tiny_export: None, tmp_path: Path) -> None:
    """Where outputs are equal the PSNR is infinite, for which JSON has no number."""
    (path,) = export(target="onnx", scale=2, form="routed", output=tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(sidecar_path(path).read_text(), parse_constant=refuse)


def test_without_verification(
    tiny_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "verify", None)
    options = ExportOptions(form="routed", output=tmp_path, verify=False, target="onnx")
    made, _ = export_model(options).models
    assert made.parity == ()
    assert json.loads(sidecar_path(made.path).read_text())["parity"] == []


def test_old_files_are_replaced(tiny_export: None, tmp_path: Path) -> None:
    for name in (f"{STEMS[1]}.onnx", f"{STEMS[1]}.onnx.json"):
        (tmp_path / name).write_bytes(b"old")
    (path,) = export(target="onnx", form="routed", output=tmp_path, verify=False)
    onnx.checker.check_model(str(path))
    assert len(files(tmp_path)) == 4


def test_a_mismatch_publishes_nothing(perturbed: None, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="does not do what the network does"):
        export(target="onnx", scale=2, output=tmp_path / "out")
    assert files(tmp_path) == []


def test_a_mismatch_of_the_second_form_publishes_nothing(
    tiny_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, forms = graphs.verify, []

    def fail_second(model: Any, artefact: Artefact, *rest: Any) -> Any:
        forms.append(artefact.form)
        if artefact.form == "routed":
            raise ParityError("no")
        return run(model, artefact, *rest)

    monkeypatch.setattr(graphs, "verify", fail_second)
    with pytest.raises(ParityError):
        export(target="onnx", scale=2, output=tmp_path)
    assert forms == ["self-contained", "routed"]
    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["write_bytes"])
@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
def test_when_the_second_write_fails_nothing_is_published(
    tiny_export: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    function: str,
    old: bool,
) -> None:
    if old:
        for stem in STEMS:
            (tmp_path / f"{stem}.onnx").write_bytes(b"old")
    before = files(tmp_path)
    write, calls = getattr(Path, function), []

    def fail_second(path: Path, *arguments: Any, **options: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise error
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, function, fail_second)
    expected = PpsrError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export(target="onnx", scale=2, output=tmp_path, verify=False)
    assert len(calls) == 2
    assert files(tmp_path) == before
    assert all((tmp_path / name).read_bytes() == b"old" for name in before)


@pytest.mark.parametrize("call", range(1, 7))
def test_when_the_disk_fails_to_keep_a_file_nothing_is_published(
    tiny_export: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    sync, calls = os.fsync, []

    def fail(file: int) -> None:
        calls.append(file)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PpsrError, match="No space left"):
        export(target="onnx", scale=2, output=tmp_path, verify=False)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 7}, "expected scale to be one of 2, 3, 4"),
        ({"model": "swinir"}, "expected model to be one of"),
        ({"form": "dense"}, "expected form to be one of"),
        ({"output": __file__}, "is a file"),
    ],
)
def test_wrong_options_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(pipeline, "build", None)
    with pytest.raises(UsageError, match=message):
        export(**options)


@pytest.mark.parametrize(
    ("weights", "words"),
    [("no/such.safetensors", "no/such.safetensors"), (SHIPPED, "for x3, got weights for x2")],
)
def test_weights_that_do_not_fit(tmp_path: Path, weights: str | Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        export(3, weights=weights, target="onnx", output=tmp_path / "out")
    assert files(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX")
def test_a_folder_that_cannot_be_made(tiny_export: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PpsrError, match=r"cannot make the folder|is a file|not a folder"):
        export(target="onnx", form="routed", verify=False, output=tmp_path / "file" / "below")
