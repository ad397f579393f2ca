"""Engines for real: TensorRT for RTX parses and builds without a GPU; TensorRT as a fake module."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

from ppsr.calibration.ranges import Ranges, write_ranges
from ppsr.export import flavour as flavours
from ppsr.export import plans
from ppsr.export.engine import build_plan
from ppsr.export.flavour import choose_flavour, gpu_at_hand, load_flavour, why_no_engine
from ppsr.export.graph_backend import graph_sha256
from ppsr.export.islands import CAUTIOUS, ISLANDS
from ppsr.export.layers import COMPUTING, LayerInfo, require_fp16, require_int8, summary
from ppsr.export.options import DEFAULT_PROFILES, Profile
from ppsr.models.errors import BackendUnavailable, ParityError, PpsrError
from ppsr.runtime.sidecar import Flavour, read_sidecar, routing_path, sha256

MANY = 20
"""Steps of progress of the smallest build there is: more than these."""
SMALL = (Profile((16, 16), (64, 64), (128, 128)),)


def ranges(takes_active: bool, profiles: tuple[Profile, ...] = SMALL) -> list[Any]:
    return [profile.shape_range(takes_active) for profile in profiles]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``without(*modules)``: those TensorRTs are not installed; no GPU either."""

    def hide(*modules: str) -> None:
        monkeypatch.setattr(flavours, "find_spec", lambda name: None if name in modules else True)
        monkeypatch.setattr(flavours, "gpu_at_hand", lambda: None)
        for module in {"tensorrt", "tensorrt_rtx"} - set(modules):
            monkeypatch.setitem(sys.modules, module, ModuleType(module))

    return hide


class TestChoice:
    def test_auto_takes_what_can_build_here(self, without: Callable) -> None:
        without()
        assert choose_flavour("auto") == "tensorrt-rtx"
        without("tensorrt_rtx")
        assert choose_flavour("auto") is None
        assert why_no_engine("auto").endswith(
            "tensorrt-rtx is not installed: pip install 'ppsr[rtx]'"
        )

    def test_tensorrt_comes_first_where_there_is_a_gpu(
        self, without: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without()
        monkeypatch.setattr(flavours, "gpu_at_hand", lambda: SimpleNamespace(name="H200"))
        assert choose_flavour("auto") == "tensorrt"

    @pytest.mark.parametrize(
        ("target", "hidden", "line"),
        [
            ("tensorrt", "tensorrt", "tensorrt is not installed: pip install 'ppsr[tensorrt]'"),
            ("tensorrt-rtx", "tensorrt_rtx", "not installed: pip install 'ppsr[rtx]'"),
            ("tensorrt", "", "--target tensorrt-rtx builds without one"),
        ],
    )
    def test_what_is_named_and_missing_is_told(
        self, without: Callable, target: Any, hidden: str, line: str
    ) -> None:
        without(hidden)
        with pytest.raises(BackendUnavailable, match=re.escape(line)) as caught:
            choose_flavour(target)
        assert caught.value.exit_code == 4

    def test_onnx_alone(self, without: Callable) -> None:
        without()
        assert choose_flavour("onnx") is None
        assert "as asked" in why_no_engine("onnx")

    def test_a_flavour_that_does_not_load(
        self, without: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its wheel is there, its libraries are not: auto goes on to the next."""
        without()
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendUnavailable, match=r"cannot be imported .*ppsr\[tensorrt\]"):
            load_flavour("tensorrt")
        assert choose_flavour("auto") == "tensorrt-rtx"


def layer(name: str, kind: str, precision: str) -> LayerInfo:
    return LayerInfo(name, kind, (precision,))


class TestPrecision:
    ISLANDS = tuple(island for island in CAUTIOUS if island.name == "category logits")
    GOOD = (
        layer("layers.0.residual_group.layers.0.attn_win/MatMul", "MATRIX_MULTIPLY", "HALF"),
        layer("layers.0.residual_group.layers.0.attn_aca.softmax/Softmax", "SOFTMAX", "FLOAT"),
        layer("layers.0.residual_group.layers.0.attn_aca/Gather", "GATHER", "INT32"),
    )

    def test_islands_are_fp32_and_the_rest_fp16(self) -> None:
        require_fp16(self.GOOD, self.ISLANDS)
        assert summary(self.GOOD) == "3 layers; of those that compute 1 FLOAT, 1 HALF"

    def test_the_summary_and_the_check_see_int8(self) -> None:
        quantised = [*self.GOOD, LayerInfo("a/input", "QUANTIZE", ("INT8",))]
        assert summary(quantised).endswith("1 FLOAT, 1 HALF; 1 tensors are quantised")
        require_int8(quantised)
        with pytest.raises(ParityError, match="nothing in the engine's network is INT8"):
            require_int8(self.GOOD)

    @pytest.mark.parametrize(
        ("number", "precision", "words"),
        [
            (0, "FLOAT", "expected layers.0.*attn_win/MatMul to be HALF, it is FLOAT"),
            (1, "HALF", r"\(FP32 island 'category logits'\) to be FLOAT, it is HALF"),
        ],
    )
    def test_another_precision_is_refused(self, number: int, precision: str, words: str) -> None:
        spoilt = list(self.GOOD)
        spoilt[number] = layer(spoilt[number].name, spoilt[number].kind, precision)
        with pytest.raises(ParityError, match=words) as caught:
            require_fp16(spoilt, self.ISLANDS)
        assert caught.value.exit_code == 3

    def test_nothing_in_fp16_is_refused(self) -> None:
        with pytest.raises(ParityError, match="nothing in the engine's network is FP16"):
            require_fp16(self.GOOD[1:], self.ISLANDS)

    def test_an_island_that_was_renamed_is_noticed(self) -> None:
        with pytest.raises(ParityError, match=r"islands \['refinement', 'similarity'\]"):
            require_fp16((self.GOOD[0], self.GOOD[2]))


@pytest.mark.rtx
class TestRtx:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tensorrt_rtx")

    @pytest.mark.parametrize(("name", "fp16"), [("pp-atd-light", True), ("atd-light", False)])
    def test_builds_for_full_hd(self, graph: Callable, name: str, fp16: bool) -> None:
        """Masked and dense, 32 x 32 up to 1088 x 1920, no token or all; one with every profile.

        The types of the layers are the engine's precision, GPU or not.
        """
        model, artefact = graph(name, fp16=fp16)
        chosen = DEFAULT_PROFILES if fp16 and artefact.takes_active else DEFAULT_PROFILES[1:2]
        built = build_plan(model, ranges(artefact.takes_active, chosen), "tensorrt-rtx")
        assert len(built.plan) > 1_000_000
        assert len(built.profiles) == len(chosen)
        # Of the prototype's graph. FP16 has a cast at each border of an island.
        assert len(built.layers) < 9817 * (0.35 if fp16 else 1 / 3)
        computing = [one for one in built.layers if one.kind in COMPUTING]
        if not fp16:
            assert {one.outputs[0] for one in computing} == {"FLOAT"}
            return
        require_fp16(built.layers)
        for number in range(24):
            scope = f"layers.{number // 6}.residual_group.layers.{number % 6}."
            mine = [one for one in computing if one.name.startswith(scope)]
            halves = {one.name for one in mine if one.outputs[0] == "HALF"}
            attention = ("attn_win/MatMul", "attn_win/Softmax", "attn_win/MatMul_1")
            fused = ("attn_aca.softmax/MatMul", "attn_aca.softmax/Softmax", "attn_aca/MatMul")
            assert {scope + name for name in (*attention, *fused)} <= halves
            for island in ISLANDS:
                inside = [one for one in mine if re.search(island.pattern, one.name)]
                if island.name != "refinement" or number % 6 < 5:
                    assert inside, f"{island.name} is in no layer's list at {scope}"

    def test_progress_is_told(self, graph: Callable) -> None:
        told: list[tuple[str, float]] = []

        def on_phase(phase: str, done: float) -> bool:
            told.append((phase, done))
            return True

        build_plan(graph("tiny")[0], ranges(True), "tensorrt-rtx", on_phase)
        assert len(told) > MANY
        assert len({phase for phase, _ in told}) > 1
        assert all(0 < done <= 1 for _, done in told)

    def test_a_build_that_is_told_to_stop_stops(self, graph: Callable) -> None:
        told: list[str] = []

        def on_phase(phase: str, _done: float) -> bool:
            told.append(phase)
            return False

        with pytest.raises(KeyboardInterrupt):
            build_plan(graph("tiny")[0], ranges(True), "tensorrt-rtx", on_phase)
        assert len(told) < MANY / 2, "it went on"

    @pytest.fixture
    def _hears_ctrl_c(self) -> Iterator[None]:
        """Shells start what runs in their background deaf to it."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.usefixtures("_hears_ctrl_c")
    def test_ctrl_c_stops_the_build(self, graph: Callable) -> None:
        """The signal comes while TensorRT works, and the build ends early."""
        told: list[str] = []

        def on_phase(phase: str, _done: float) -> bool:
            told.append(phase)
            if len(told) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            return True

        with pytest.raises(KeyboardInterrupt):
            build_plan(graph("tiny")[0], ranges(True), "tensorrt-rtx", on_phase)
        assert len(told) < MANY / 2, "it went on"

    def test_what_the_caller_does_wrong_is_raised_to_the_caller(self, graph: Callable) -> None:
        def on_phase(_phase: str, _done: float) -> bool:
            raise BrokenPipeError("the screen is gone")

        with pytest.raises(BrokenPipeError, match="the screen is gone"):
            build_plan(graph("tiny")[0], ranges(True), "tensorrt-rtx", on_phase)

    def test_a_graph_it_does_not_take(self, graph: Callable) -> None:
        """The self-contained graph has a NonZero."""
        with pytest.raises(PpsrError, match=r"did not take the graph.*NonZero"):
            build_plan(graph("tiny", "self-contained")[0], ranges(True), "tensorrt-rtx")

    @pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
    def test_the_command_publishes_plans(
        self, tiny_export: None, command: Callable, tmp_path: Path, fp16: bool
    ) -> None:
        result = command(
            *("--target", "tensorrt-rtx", "--inspect", "-o", tmp_path, *(["--fp16"] * fp16)),
            *("--min-shape", "16x16", "--opt-shape", "64x64", "--max-shape", "128x128"),
        )
        assert result.exit_code == 0, result.output
        (plan,) = (p for p in tmp_path.glob("*.plan") if "routing" not in p.name)
        precision = "fp16" if fp16 else "fp32"
        assert re.fullmatch(rf"pp-atd-light_x2_{precision}_rtx[\d.]+\.plan", plan.name)
        assert f"{plan.name}" in result.output
        assert "16 x 16" in result.output
        assert re.search(r"\d+ layers; of those that compute", result.output)
        routed = tmp_path / f"pp-atd-light_x2_{precision}_routed.onnx"
        for path, of in (
            (plan, routed),
            (routing_path(plan), tmp_path / "pp-atd-light_routing.onnx"),
        ):
            sidecar = read_sidecar(path)
            assert sidecar is not None
            assert sidecar.plan is not None
            assert sidecar.plan.flavour == "tensorrt-rtx"
            assert sidecar.plan.sha256 == sha256(path.read_bytes())
            assert sidecar.onnx_sha256 == sha256(of.read_bytes())
            assert sidecar.profiles[0].max == (128, 128)
        listed = json.loads(plans.layers_path(plan).read_text())
        if gpu_at_hand() is None:
            assert listed["engine"] == "not inspected: there is no GPU"
        for product, kind in (
            ("attn_aca.softmax", "HALF" if fp16 else "FLOAT"),
            ("attn_atd", "FLOAT"),
        ):
            products = [one for one in listed["network"] if f"{product}/MatMul" in one["name"]]
            assert [one["outputs"] for one in products] == [[kind]] * len(products)
            assert len(products) >= 2

    def test_fp16_that_is_none_publishes_no_plan(
        self,
        tiny_export: None,
        command: Callable,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from ppsr.export import graphs, lowering

        monkeypatch.setattr(lowering, "to_fp16", lambda model, islands: model)
        monkeypatch.setattr(graphs, "verify", lambda *_: [])
        result = command("--fp16", "--target", "tensorrt-rtx", "-o", tmp_path)
        assert result.exit_code == 3
        assert "to be HALF, it is FLOAT" in result.stderr
        assert list(tmp_path.glob("*.plan*")) == []
        assert len(list(tmp_path.glob("*.onnx"))) == 3

    def test_int8_becomes_a_plan(
        self,
        tiny_export: None,
        command: Callable,
        body: Callable,
        amax: dict[str, float],
        tmp_path: Path,
    ) -> None:
        ranges = tmp_path / "ranges.json"
        write_ranges(ranges, Ranges(graph_sha256(body()), "minmax", 2, amax))
        shapes = ("--min-shape", "16x16", "--opt-shape", "64x64", "--max-shape", "96x96")
        arguments = ("--int8", "--calibration", ranges, "--form", "routed", *shapes)
        result = command(*arguments, "--target", "tensorrt-rtx", "-o", tmp_path)
        assert result.exit_code == 0, result.output
        (plan,) = (path for path in tmp_path.glob("*.plan") if "routing" not in path.name)
        assert plan.name.startswith("pp-atd-light_x2_int8_rtx")


def test_a_target_that_is_missing_ends_before_anything_slow(
    command: Callable, without: Callable, tmp_path: Path
) -> None:
    without("tensorrt")
    result = command("--target", "tensorrt", "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == "Error: tensorrt is not installed: pip install 'ppsr[tensorrt]'\n"
    assert list(tmp_path.iterdir()) == []


class FakeTensorRT:
    """What ``build_plan`` asks of TensorRT 11, recorded; there is no wheel of it to test with."""

    __version__ = "11.4.0.106"

    def __init__(
        self, *, parses: bool = True, takes: bool = True, builds: bool = True, raises: bool = False
    ) -> None:
        self.calls: list[Any] = []
        self.cache = b"what was measured"
        fake = self

        class Base:
            def __init__(self) -> None:
                pass

        class Logger(Base):
            ERROR, INTERNAL_ERROR = "error", "internal"

        class Tensor(SimpleNamespace):
            pass

        class Network:
            num_inputs, num_layers = 2, 1

            def get_input(self, index: int) -> Any:
                return Tensor(name=("input", "active")[index])

            def get_layer(self, _index: int) -> Any:
                output = Tensor(dtype=SimpleNamespace(name="HALF"))
                kind = SimpleNamespace(name="SOFTMAX")
                return SimpleNamespace(
                    name="a", type=kind, num_outputs=1, get_output=lambda _i: output
                )

        class Parser:
            num_errors = 1

            def __init__(self, _network: Any, _logger: Any) -> None:
                pass

            def parse(self, data: bytes) -> bool:
                fake.calls.append(("parse", len(data) > 0))
                return parses

            def get_error(self, _index: int) -> Any:
                return SimpleNamespace(desc=lambda: "no importer for NonZero")

        class Cache:
            def serialize(self) -> bytes:
                return fake.cache

        class Config:
            progress_monitor: Any = None

            def clear_flag(self, flag: str) -> None:
                fake.calls.append(("without", flag))

            def add_optimization_profile(self, profile: Any) -> int:
                fake.calls.append(("profile", profile.shapes))
                return 0 if takes else -1

            def create_timing_cache(self, data: bytes) -> Any:
                fake.calls.append(("cache", data))
                return Cache()

            def set_timing_cache(self, _cache: Any, ignore_mismatch: bool) -> None:
                assert not ignore_mismatch

            def get_timing_cache(self) -> Any:
                return Cache()

        class Builder:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def create_network(self, flags: int) -> Any:
                fake.calls.append(("network", flags))
                return Network()

            def create_builder_config(self) -> Any:
                return Config()

            def create_optimization_profile(self) -> Any:
                shapes: dict[str, Any] = {}
                return SimpleNamespace(
                    shapes=shapes, set_shape=lambda name, *three: shapes.update({name: three})
                )

            def build_serialized_network(self, _network: Any, _config: Any) -> bytes | None:
                if raises:
                    raise RuntimeError("a library is missing")
                if not builds:
                    self.logger.log("error", "out of memory\nsecond line")
                return b"engine" if builds else None

        self.ILogger, self.IProgressMonitor = Logger, Base
        self.Builder, self.OnnxParser = Builder, Parser
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.BuilderFlag = SimpleNamespace(TF32="TF32")


class TestTensorRT:
    FLAVOUR: Flavour = "tensorrt"

    @pytest.fixture
    def fake(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., FakeTensorRT]:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(flavours, "find_spec", lambda _module: True)

        def install(**options: Any) -> FakeTensorRT:
            made = FakeTensorRT(**options)
            monkeypatch.setitem(sys.modules, "tensorrt", made)
            return made

        return install

    def test_builds_strongly_typed_with_every_profile(self, fake: Callable) -> None:
        trt = fake()
        built = build_plan(onnx.ModelProto(ir_version=10), ranges(True), self.FLAVOUR)
        assert (built.plan, built.version) == (b"engine", "11.4.0.106")
        assert built.layers == (LayerInfo("a", "SOFTMAX", ("HALF",)),)
        assert trt.calls == [
            ("network", 2),
            ("parse", True),
            ("without", "TF32"),
            (
                "profile",
                {
                    "input": ((1, 3, 16, 16), (1, 3, 64, 64), (1, 3, 128, 128)),
                    "active": ((0,), (2458,), (16384,)),
                },
            ),
            ("cache", b""),
        ]

    def test_what_was_measured_is_kept_for_the_next_build(self, fake: Callable) -> None:
        fake()
        build_plan(onnx.ModelProto(ir_version=10), ranges(True), self.FLAVOUR)
        again = fake()
        build_plan(onnx.ModelProto(ir_version=10), ranges(True), self.FLAVOUR)
        assert again.calls[-1] == ("cache", b"what was measured")

    def test_a_cache_that_cannot_be_written_is_no_error(
        self, fake: Callable, tmp_path: Path
    ) -> None:
        fake()
        (tmp_path / "ppsr").write_text("a file where the folder should be")
        assert build_plan(onnx.ModelProto(ir_version=10), ranges(True), self.FLAVOUR).plan

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"parses": False}, "11.4.0.106 did not take the graph: no importer for NonZero"),
            ({"takes": False}, r"11.4.0.106 did not take the profile ShapeRange\(min=\(16, 16\)"),
            ({"builds": False}, "11.4.0.106 did not build the engine: out of memory$"),
            ({"raises": True}, "the build failed: a library is missing"),
        ],
    )
    def test_its_own_words_are_told(
        self, fake: Callable, options: dict[str, bool], words: str
    ) -> None:
        fake(**options)
        with pytest.raises(PpsrError, match=words):
            build_plan(onnx.ModelProto(ir_version=10), ranges(True), self.FLAVOUR)


@pytest.mark.rtx
def test_ctrl_c_while_the_engine_is_built_keeps_the_onnx_files(
    tiny_export: None, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")

    def interrupted(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plans, "build_plan", interrupted)
    result = command("--target", "tensorrt-rtx", "--no-verify", "-o", tmp_path)
    assert result.exit_code == 130
    assert result.stderr == "Error: interrupted\n"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 3 + [".onnx"] * 3


def test_auto_without_a_flavour_says_what_to_install(
    tiny_export: None, command: Callable, without: Callable, tmp_path: Path
) -> None:
    without("tensorrt", "tensorrt_rtx")
    result = command("--form", "routed", "--no-verify", "-o", tmp_path)
    assert result.exit_code == 0
    line = "No engine was built: tensorrt-rtx is not installed: pip install 'ppsr[rtx]'"
    assert line in result.stdout
    assert list(tmp_path.glob("*.plan")) == []


def test_help_needs_no_tensorrt() -> None:
    code = "import sys, ppsr.export.cli; print({'tensorrt', 'tensorrt_rtx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
