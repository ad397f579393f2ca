from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ppsr.models.errors import ArtefactError, UsageError
from ppsr.runtime.bench.inputs import Input
from ppsr.runtime.bench.memory import measure_memory, peak_bytes
from ppsr.runtime.bench.models import Model, opened, require_comparable
from ppsr.runtime.bench.stages import STAGES, measure_stages
from ppsr.runtime.open_model import open_model, shown_name, without_device
from ppsr.runtime.sidecar import sha256
from ppsr.runtime.upscaler import Upscaler


def test_scales_must_agree(fake: Callable) -> None:
    with pytest.raises(UsageError, match="two models of the same scale, got x2 and x3"):
        require_comparable(Upscaler(fake()), Upscaler(fake(scale=3)))


@pytest.mark.parametrize("form", ["self-contained", "routed"])
def test_only_the_mask_may_differ(fake: Callable, form: str) -> None:
    masked, dense = fake(form=form), fake(form=form, model="atd-light")
    require_comparable(Upscaler(masked), Upscaler(dense))
    for first, second in ((masked, masked), (dense, dense), (dense, masked)):
        with pytest.raises(UsageError, match="a masked model against a dense one") as caught:
            require_comparable(Upscaler(first), Upscaler(second))
        assert f"got {first.artefact.model} against {second.artefact.model}" in str(caught.value)
    other = {"self-contained": "routed", "routed": "self-contained"}[form]
    for change, message in (
        (
            {"weights_sha256": "1" * 64},
            "same weights, got 000000000000 and 111111111111;.*--weights",
        ),
        ({"precision": "fp16"}, "same precision, got fp32 and fp16;.*--fp16"),
        ({"form": other}, f"same form, got {form} and {other};.*--form"),
        ({"tuned_for": "openvino"}, "same tuning, got any and openvino;.*--target"),
    ):
        changed = fake()
        changed.artefact = replace(dense.artefact, **change)
        with pytest.raises(UsageError, match=message):
            require_comparable(Upscaler(masked), Upscaler(changed))


def test_devices_must_agree(fake: Callable) -> None:
    masked, dense = fake(), fake(model="atd-light")
    dense.device = "CPU, OpenVINO"
    with pytest.raises(UsageError, match=r"same device, got CPU and CPU, OpenVINO;.*one --device"):
        require_comparable(Upscaler(masked), Upscaler(dense))
    masked.device = dense.device
    require_comparable(Upscaler(masked), Upscaler(dense))


def test_files_of_one_tuning_are_compared(fake: Callable) -> None:
    masked, dense = fake(), fake(model="atd-light")
    for backend in (masked, dense):
        backend.artefact = replace(backend.artefact, tuned_for="onnxruntime")
    require_comparable(Upscaler(masked), Upscaler(dense))


@pytest.mark.parametrize(
    ("given", "shown", "bare"),
    [
        ("a/m.onnx", "m.onnx", "a/m.onnx"),
        ("a/m.onnx@cpu", "m.onnx@cpu", "a/m.onnx"),
        ("a/m.onnx@openvino", "m.onnx@openvino", "a/m.onnx"),
        ("a/m.onnx@openvino-bf16", "m.onnx@openvino-bf16", "a/m.onnx"),
        ("a@b/m.onnx@auto", "m.onnx@auto", "a@b/m.onnx"),
        ("a@cpu/m.onnx", "m.onnx", "a@cpu/m.onnx"),
        ("pp-atd-light:default@cpu", "pp-atd-light:default@cpu", "pp-atd-light:default"),
    ],
)
def test_a_device_behind_a_name(given: str, shown: str, bare: str) -> None:
    assert shown_name(given) == shown
    assert without_device(given) == bare


def test_each_model_runs_where_its_name_says(tmp_path: Path, write_model: Callable) -> None:
    """The device behind a name replaces that of --device."""
    pytest.importorskip("openvino")
    path = write_model(tmp_path / "m.onnx", form="routed")
    names = [str(path), f"{path}@cpu", f"{path}@openvino", f"{path}@openvino-bf16", str(path)]
    with opened(names, None, "openvino", 1) as (models, _):
        told = [model.to_json() for model in models]
        assert [model.warm_up for model in models] == [1] * 5
    assert [(one["name"], one["backend"], one["device"]) for one in told] == [
        ("m.onnx", "OpenVINO", "CPU, OpenVINO"),
        ("m.onnx@cpu", "onnxruntime", "CPU"),
        ("m.onnx@openvino", "OpenVINO", "CPU, OpenVINO"),
        ("m.onnx@openvino-bf16", "OpenVINO", "CPU, OpenVINO in BF16"),
        ("m.onnx (2)", "OpenVINO", "CPU, OpenVINO"),
    ]
    for one in told:
        assert one["file_sha256"] == one["onnx_sha256"] == sha256(path.read_bytes())
        assert one["tuned_for"] == "any"
        assert str(tmp_path) not in str(one)


@pytest.mark.parametrize("name", ["m.onnx@tpu", "m.onnx@", "@cpu"])
def test_what_is_no_device_belongs_to_the_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"got {name}"):
        open_model(name)


def test_a_checkpoint_does_not_run_on_openvino() -> None:
    pytest.importorskip("torch")
    for name in ("pp-atd-light:default@openvino", "atd-light:default@openvino-bf16"):
        with pytest.raises(UsageError, match="a checkpoint runs by torch, not by openvino"):
            open_model(name, scale=2)


def test_a_gpu_is_warmed_up_twice(fake: Callable) -> None:
    backend = fake()
    assert Model("", "m", Upscaler(backend)).warm_up == 1
    backend.device = "CUDA"
    assert Model("", "m", Upscaler(backend)).warm_up == 2


def test_models_are_told_apart_and_closed(tmp_path: Path, write_model: Callable) -> None:
    path = write_model(tmp_path / "m.onnx", form="routed")
    other = write_model(tmp_path / "d.onnx", form="routed", model="atd-light")
    with opened([str(path), str(path)], str(other), "cpu", 1) as (models, dense):
        assert [model.name for model in models] == ["m.onnx", "m.onnx (2)"]
        assert dense is not None
        assert dense.name == "d.onnx"
        content = models[0].to_json()
    assert content["stem"] == "pp-atd-light_x2_fp32_routed"
    assert (content["backend"], content["device"]) == ("onnxruntime", "CPU")
    assert content["file_sha256"] == content["onnx_sha256"] == sha256(path.read_bytes())
    assert str(tmp_path) not in str(content)


def test_names_of_models() -> None:
    assert shown_name("a/b/m.onnx") == "m.onnx"
    assert shown_name("atd-light:a/x2.pth") == "atd-light:x2.pth"
    with pytest.raises(UsageError, match="bicubic is no network"):
        open_model("bicubic")
    with pytest.raises(UsageError, match="has no scale of its own; give one with --scale"):
        open_model("default")
    with pytest.raises(UsageError, match=r"got m\.txt"):
        open_model("m.txt")
    with pytest.raises(ArtefactError, match=r"cannot read no\.onnx"):
        open_model("no.onnx")


def test_a_model_of_another_scale_is_refused(tmp_path: Path, write_model: Callable) -> None:
    path = write_model(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="expected a model for x3, got one for x2"):
        open_model(str(path), scale=3)


def test_a_checkpoint_runs_by_torch(photo: Callable) -> None:
    pytest.importorskip("torch")
    with open_model("atd-light:default", "cpu", 1, scale=2) as upscaler:
        assert Model("", "m", upscaler).backend == "torch"
        assert upscaler.artefact.model == "atd-light"


def test_stages_of_one_file(tmp_path: Path, photo: Callable, fake: Callable) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.png"
    image.fromarray(photo("coffee", 20, 30)).save(path)
    models = [Model("", "m", Upscaler(fake(form="routed"))), Model("", "s", Upscaler(fake()))]
    first, second = measure_stages(models, path, "a.png", 2)
    assert (first.model, first.size, first.tiles) == ("m", (20, 30), 1)
    assert len(first.rounds) == 2
    assert all((found := first.of(stage)) and found.median >= 0 for stage in STAGES)
    assert second.of("routing") is None
    assert second.to_json()["stages"]["routing"] is None
    assert first.total.median >= first.of("encode").median  # type: ignore[union-attr]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_memory_is_that_of_another_process(
    tmp_path: Path, photo: Callable, write_model: Callable
) -> None:
    path = write_model(tmp_path / "m.onnx", form="routed")
    fragile = write_model(tmp_path / "f.onnx", form="routed", fragile=True)
    one = Input("a", photo("coffee", 64, 64))
    with opened([str(path), str(fragile)], None, "cpu", 1) as (models, _):
        good, bad = measure_memory(models, one, "cpu", 1, None)
    assert (good.model, good.size) == ("m.onnx", (64, 64))
    assert good.loaded is not None
    assert good.peak is not None
    assert 20e6 < good.loaded <= good.peak < 2e9
    assert (bad.loaded, bad.peak) == (None, None)


def test_memory_is_unknown_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert peak_bytes(tmp_path / "no") is None
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t    1000 kB\n")
    assert peak_bytes(tmp_path / "status") == 1_024_000
