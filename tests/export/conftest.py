"""Traces, graphs and pictures for the tests of ppsr.export: every slow one is made once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from skimage import data

from ppsr.calibration.crops import Crop, sample_crops
from ppsr.export import cli, contestants, graphs, pipeline, reference, reproof
from ppsr.export.attention_nodes import share_weights
from ppsr.export.compose import join_front_end, write_metadata
from ppsr.export.lowering import take_ranges
from ppsr.export.naming import name_nodes
from ppsr.export.options import ATTENTION_OPSET
from ppsr.export.precision import to_fp16
from ppsr.export.trace import trace_front_end, trace_network
from ppsr.export.tuning import RECIPES
from ppsr.export.verify import GraphRun
from ppsr.models import build
from ppsr.models.atd import ATD
from ppsr.models.registry import config_for
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.ort import open_session
from ppsr.runtime.sidecar import Sidecar, sha256, sidecar_path

OPSET = 20
OPSETS = {"any": OPSET, "openvino": OPSET, "onnxruntime": ATTENTION_OPSET}
PHOTOS = ("coffee", "chelsea", "astronaut", "rocket")

Rgb = npt.NDArray[np.uint8]
Graph = tuple[onnx.ModelProto, Artefact]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The pictures are small: more threads gain little, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="session")
def eager_once() -> Iterator[None]:
    """Run the eager network once for the same picture and categories: graphs share its runs."""
    kept: dict[Any, Any] = {}
    run = reference._eager

    def once(network: ATD, rgb: Rgb, active: Any, imposed: Any) -> Any:
        categories = None if imposed is None else tuple(c.tobytes() for c in imposed.values())
        key = id(network), rgb.shape, rgb.tobytes(), active.tobytes(), categories
        if key not in kept:
            kept[key] = network, run(network, rgb, active, imposed)  # The network keeps its id.
        return kept[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_eager", once)
        yield


@pytest.fixture(scope="session")
def photo() -> Callable[..., Rgb]:
    """``photo("coffee", height, width, top, left)``: a crop of a real photo, uint8 H W 3."""

    def crop(
        name: str = "coffee", height: int = 37, width: int = 50, top: int = 100, left: int = 10
    ) -> Rgb:
        whole: Rgb = getattr(data, name)()
        return np.ascontiguousarray(whole[top : top + height, left : left + width])

    return crop


@pytest.fixture(scope="session")
def crops() -> Callable[..., list[Crop]]:
    """``crops((64, 64), (37, 50))``: crops of four photos, their purity spread."""

    @cache
    def take(*sizes: tuple[int, int]) -> list[Crop]:
        return sample_crops([(name, getattr(data, name)()) for name in PHOTOS], sizes)

    return take


@pytest.fixture(scope="session")
def network() -> Callable[..., ATD]:
    """``network(name)``: with the shipped weights; "tiny" has the first 2 of 24 layers."""

    @cache
    def make(name: str = "tiny") -> ATD:
        if name != "tiny":
            return build(name, 2)
        whole = build("pp-atd-light", 2)
        tiny = ATD(replace(config_for("pp-atd-light", 2), depths=(2,)))
        state = whole.state_dict()
        tiny.load_state_dict({key: state[key] for key in tiny.state_dict()})
        tiny.weights_sha256 = "7" * 64
        return tiny.eval()

    return make


@pytest.fixture(scope="session")
def traced(
    network: Callable[..., ATD], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., onnx.ModelProto]:
    """``traced(name, tuning)``: as the tracer left it. Do not change it.

    Processes that run parts of the same test run share it: what one has traced, all others read.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    @cache
    def make(name: str = "tiny", tuning: Any = "any") -> onnx.ModelProto:
        path = shared / f"traced_{name}_{tuning}.onnx"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                onnx.save(trace_network(RECIPES[tuning].fold(network(name)), OPSETS[tuning]), path)
        return onnx.load(path)

    return make


@pytest.fixture(scope="session")
def front_end(network: Callable[..., ATD]) -> Callable[..., onnx.ModelProto]:
    """``front_end(name, opset)``: traced and named, a copy for each caller."""

    @cache
    def make(name: str = "tiny", opset: int = OPSET) -> bytes:
        model = name_nodes(trace_front_end(network(name), opset), root="front")
        return bytes(model.SerializeToString())

    return lambda *which: onnx.ModelProto.FromString(make(*which))


@pytest.fixture(scope="session")
def body(traced: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """``body(name, fp16, tuning)``: named, operated on, in its precision. Do not change it."""

    @cache
    def make(name: str = "tiny", fp16: bool = False, tuning: Any = "any") -> onnx.ModelProto:
        if fp16:
            return to_fp16(make(name))
        model = traced(name, tuning)
        for _, stage in RECIPES[tuning].stages:
            model = stage(model)
        return model

    return make


@pytest.fixture(scope="session")
def graph(
    network: Callable[..., ATD],
    body: Callable[..., onnx.ModelProto],
    front_end: Callable[..., onnx.ModelProto],
) -> Callable[..., Graph]:
    """``graph(name, form, fp16=..., tuning=...)``: as published, and its identity."""

    @cache
    def make(
        name: str = "tiny", form: Any = "routed", *, fp16: bool = False, tuning: Any = "any"
    ) -> Graph:
        settings = network(name).config
        sha, precision = network(name).weights_sha256, "fp16" if fp16 else "fp32"
        artefact = Artefact(
            *(settings.name, 2, form, precision, OPSETS[tuning]),
            *(sha, "0.1.0", settings.pure_pass, tuning),
        )
        model = body(name, fp16, tuning)
        if form == "self-contained":
            model = join_front_end(model, front_end(name, OPSETS[tuning]), 2)
        return write_metadata(share_weights(model), artefact), artefact

    return make


@pytest.fixture(scope="session")
def amax(
    body: Callable[..., onnx.ModelProto],
    network: Callable[..., ATD],
    photo: Callable[..., Rgb],
) -> dict[str, float]:
    """The largest absolute value at each site of the tiny network, on a photo. Do not change it."""
    settings = network().config
    artefact = Artefact(
        settings.name, 2, "routed", "fp32", OPSET, "7" * 64, "0.1.0", settings.pure_pass
    )
    pictures = [photo("coffee", 64, 96), photo()]
    return dict(take_ranges(body(), artefact, pictures, "minmax", threads=1).amax)


@pytest.fixture(scope="session")
def running(graph: Callable[..., Graph]) -> Callable[..., GraphRun]:
    """``running(name, form, fp16=..., tuning=..., optimise=...)``: that graph in onnxruntime."""

    @lru_cache(maxsize=3)  # Each keeps the memory of its largest picture.
    def make(
        name: str = "tiny",
        form: Any = "routed",
        *,
        fp16: bool = False,
        tuning: Any = "any",
        optimise: bool = False,
    ) -> GraphRun:
        return GraphRun(*graph(name, form, fp16=fp16, tuning=tuning), optimise=optimise)

    return make


@pytest.fixture(scope="session")
def onnxruntime_runs() -> Callable[..., list[npt.NDArray[Any]]]:
    """``onnxruntime_runs(model, feed)``: every output, with onnxruntime's optimiser off."""

    def run(model: onnx.ModelProto, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        onnx.checker.check_model(model, full_check=True)
        session = open_session(model.SerializeToString(), threads=1, optimise=False)
        outputs: list[npt.NDArray[Any]] = session.run(None, feed)
        return outputs

    return run


@pytest.fixture
def tiny_export(
    monkeypatch: pytest.MonkeyPatch,
    network: Callable[..., ATD],
    traced: Callable[..., onnx.ModelProto],
    front_end: Callable[..., onnx.ModelProto],
) -> None:
    """Make the pipeline export the tiny network, on small pictures, without tracing it again."""
    network(), traced(), front_end()
    monkeypatch.setattr(pipeline, "build", lambda *_, **__: network())
    monkeypatch.setattr(pipeline, "trace_network", lambda *_: traced())
    monkeypatch.setattr(graphs, "trace_front_end", lambda _, opset: front_end("tiny", opset))
    monkeypatch.setattr(graphs, "VERIFIED_SIZES", ((16, 16), (37, 50)))


@pytest.fixture
def tiny_reproof(monkeypatch: pytest.MonkeyPatch, network: Callable[..., ATD]) -> None:
    """Let ppsr-verify build the tiny network, and run small crops of the sample photo."""
    monkeypatch.setattr(contestants, "build", lambda *_, **__: network())
    monkeypatch.setattr(reproof, "SIZES", ((48, 48), (64, 101)))


@pytest.fixture
def publish(graph: Callable[..., Graph], tmp_path: Path) -> Callable[..., Path]:
    """``publish(name, form, fp16=..., tuning=..., file=..., change=...)``: a graph, described.

    ``change`` takes a copy of the graph and alters it before it is hashed; ``sidecar=False``
    leaves the description out.
    """

    def write(
        name: str = "tiny",
        form: Any = "routed",
        *,
        fp16: bool = False,
        tuning: Any = "any",
        file: str | None = None,
        change: Callable[[onnx.ModelProto], object] | None = None,
        sidecar: bool = True,
    ) -> Path:
        original, artefact = graph(name, form, fp16=fp16, tuning=tuning)
        model = onnx.ModelProto.FromString(original.SerializeToString())
        if change is not None:
            change(model)
        path, content = tmp_path / (file or f"{artefact.stem}.onnx"), model.SerializeToString()
        path.write_bytes(content)
        if sidecar:
            description = Sidecar(artefact, sha256(content), "2026-11-20T10:00:00+00:00")
            sidecar_path(path).write_text(description.to_text())
        return path

    return write


@pytest.fixture(scope="session")
def command() -> Callable[..., Result]:
    """``command(*arguments)``: run ppsr-export; whatever happens, no traceback."""

    def run(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        return result

    return run
