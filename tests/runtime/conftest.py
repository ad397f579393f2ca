"""Real photos and tiny models for the tests of ppsr.runtime; none of them needs the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skimage import data

from ppsr.models.config import PurePass
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.sidecar import Plan, Sidecar, routing_path, sha256, sidecar_path

Rgb = npt.NDArray[np.uint8]

_spec = spec_from_file_location("fake_gpu", Path(__file__).with_name("fake_gpu.py"))
assert _spec
assert _spec.loader
fake_gpu: Any = module_from_spec(_spec)
_spec.loader.exec_module(fake_gpu)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A machine with a GPU, CUDA and both TensorRT, all of them fakes: see fake_gpu.py."""
    yield fake_gpu.install(monkeypatch)
    fake_gpu.forget()


@pytest.fixture(scope="session")
def write_plan(identity: Callable[..., Artefact]) -> Callable[..., Path]:
    """``write_plan(path, plan={...}, described={...}, model=...)``: a plan for the fakes.

    ``plan`` changes what the engine is, ``described`` what its sidecar says; None: no sidecar.
    """

    def write(
        path: Path,
        *,
        plan: dict[str, Any] | None = None,
        described: Mapping[str, Any] | None = MappingProxyType({}),
        **options: Any,
    ) -> Path:
        artefact = identity(**{"form": "routed", **options})
        tensors = {"input": "FLOAT", "output": "FLOAT"}
        if artefact.takes_active:
            tensors["active"] = "INT64"
        if artefact.blocks is not None:
            tensors["attended"] = "INT32"
        data = fake_gpu.plan_bytes(**{"scale": artefact.scale, "tensors": tensors, **(plan or {})})
        path.write_bytes(data)
        if described is not None:
            own = Plan("tensorrt-rtx", "1.7.1.116", sha256(data))
            sidecar = Sidecar(artefact, onnx_sha256="0" * 64, plan=replace(own, **described))
            sidecar_path(path).write_text(sidecar.to_text())
        return path

    return write


ROUTER = {"kind": "router", "tensors": {"input": "FLOAT", "active": "INT64", "count": "INT32"}}


@pytest.fixture(scope="session")
def write_router(write_plan: Callable[..., Path]) -> Callable[..., Path]:
    """``write_router(path, count=...)``: the routing engine that belongs to the plan ``path``."""

    def write(path: Path, **changes: Any) -> Path:
        return write_plan(routing_path(path), plan={**ROUTER, **changes})

    return write


@pytest.fixture(scope="session")
def photo() -> Callable[..., Rgb]:
    """``photo("coffee", height, width)``: the top left of a real photo, uint8 H W 3."""

    def crop(name: str = "coffee", height: int = 61, width: int = 83) -> Rgb:
        return np.ascontiguousarray(getattr(data, name)()[:height, :width])

    return crop


@pytest.fixture(scope="session")
def identity() -> Callable[..., Artefact]:
    """``identity(form=..., model=..., scale=...)``: what a model file says of itself."""

    def make(form: Any = "self-contained", model: Any = "pp-atd-light", scale: int = 2) -> Artefact:
        pure_pass = PurePass() if model == "pp-atd-light" else None
        blocks = 4 if model == "adaformer" else None
        identity = (model, scale, form, "fp32", 20, "0" * 64, "0.1.0", pure_pass)
        return Artefact(*identity, blocks=blocks)

    return make


class FakeBackend:
    """Enlarges by repeating pixels; keeps what it was fed."""

    def __init__(self, artefact: Artefact, error: BaseException | None = None) -> None:
        self.artefact = artefact
        self.device = "CPU"
        self.wants_active = artefact.takes_active
        self.profiles: Any = ()
        self.found: dict[str, npt.NDArray[Any]] = {}
        self.feeds: list[dict[str, npt.NDArray[Any]]] = []
        self.error = error
        self.closed = False
        self.change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = lambda output: output

    def run(self, feed: Any) -> dict[str, npt.NDArray[Any]]:
        self.feeds.append(dict(feed))
        if self.error is not None:
            raise self.error
        scale = self.artefact.scale
        output = self.change(feed["input"].repeat(scale, 2).repeat(scale, 3))
        return {"output": output, **self.found}

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="session")
def fake(identity: Callable[..., Artefact]) -> Callable[..., FakeBackend]:
    """``fake(error=..., form=..., model=..., scale=...)``: a backend that needs no package."""

    def make(error: BaseException | None = None, **options: Any) -> FakeBackend:
        return FakeBackend(identity(**options), error)

    return make


@pytest.fixture(scope="session")
def write_model(identity: Callable[..., Artefact]) -> Callable[..., Path]:
    """``write_model(path, form=..., model=..., scale=...)``: an ONNX that repeats pixels.

    ``metadata=None`` leaves the identity out; ``add`` makes all values larger; ``steps`` makes it
    slow; ``fragile`` lets it fail on all but 16 x 16 pixels.
    """
    onnx = pytest.importorskip("onnx")
    helper, floats, integers = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

    def write(
        path: Path,
        *,
        metadata: dict[str, str] | str | None = "own",
        add: float = 0,
        steps: int = 0,
        fragile: bool = False,
        **options: Any,
    ) -> Path:
        artefact = identity(**options)
        nodes = [helper.make_node("Add", ["input", "add"], ["shifted"])]
        inputs = [helper.make_tensor_value_info("input", floats, [1, 3, "height", "width"])]
        if artefact.form == "routed" and artefact.pure_pass:
            inputs.append(helper.make_tensor_value_info("active", integers, ["tokens"]))
            nodes += [
                helper.make_node("ReduceMax", ["indices"], ["largest"], keepdims=0),
                helper.make_node("Concat", ["active", "minus_one"], ["indices"], axis=0),
                helper.make_node("Cast", ["largest"], ["number"], to=floats),
                helper.make_node("Mul", ["number", "zero"], ["nothing"]),
                helper.make_node("Add", ["shifted", "nothing"], ["routed"]),
            ]
            nodes[1], nodes[2] = nodes[2], nodes[1]
        if fragile:
            nodes.append(helper.make_node("Reshape", [nodes[-1].output[0], "size"], ["sized"]))
        last = nodes[-1].output[0]
        for step in range(steps):
            nodes.append(helper.make_node("Sin", [last], [f"step{step}"]))
            last = f"step{step}"
        nodes.append(
            helper.make_node(
                "Resize",
                [last, "", "scales"],
                ["output"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        )
        constants = {
            "add": np.array(add, np.float32),
            "scales": np.array([1, 1, artefact.scale, artefact.scale], np.float32),
            "minus_one": np.array([-1]),
            "size": np.array([1, 3, 16, 16]),
            "zero": np.array(0, np.float32),
        }
        used = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "nearest",
            inputs,
            [helper.make_tensor_value_info("output", floats, [1, 3, "height2", "width2"])],
            [onnx.numpy_helper.from_array(v, k) for k, v in constants.items() if k in used],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        if metadata is not None:
            own = artefact.to_metadata()
            helper.set_model_props(model, own if isinstance(metadata, str) else metadata)
        path.write_bytes(model.SerializeToString())
        return path

    return write
