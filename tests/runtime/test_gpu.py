"""Real plans of tensorrt-rtx: built here without a GPU, run where there is one.

On a machine with a GPU this file alone proves the runtime: ``pytest tests/runtime/test_gpu.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppsr.export.engine import build_plan
from ppsr.models.pure_pass import pad_to_grid
from ppsr.runtime import Upscaler
from ppsr.runtime.sidecar import Plan, ShapeRange, Sidecar, routing_path, sha256, sidecar_path

pytestmark = pytest.mark.rtx
trt: Any = pytest.importorskip("tensorrt_rtx")
onnx = pytest.importorskip("onnx")
cuda = pytest.importorskip("ppsr.runtime.cuda", exc_type=ImportError)
NO_GPU = cuda.probe()
needs_gpu = pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU))

PROFILES = (
    ShapeRange((16, 16), (64, 64), (128, 128), (0, 2048, 128 * 128)),
    ShapeRange((64, 64), (192, 320), (256, 512), (0, 30720, 256 * 512)),
)


def build(model: bytes) -> bytes:
    """A plan with ``PROFILES``, as ppsr-export builds it."""
    parsed = onnx.ModelProto.FromString(model)
    takes_active = "active" in {value.name for value in parsed.graph.input}
    profiles = [one if takes_active else replace(one, tokens=None) for one in PROFILES]
    return build_plan(parsed, profiles, "tensorrt-rtx").plan


def router() -> bytes:
    """Routing as an engine can do it, with a mask that is simple: red above one half is active."""
    helper, types = onnx.helper, onnx.TensorProto

    def constant(name: str, value: Any) -> Any:
        return onnx.numpy_helper.from_array(np.array(value), name)

    nodes = [
        helper.make_node("Gather", ["input", "zero"], ["red"], axis=1),
        helper.make_node("Reshape", ["red", "flat"], ["levels"]),
        helper.make_node("Greater", ["levels", "half"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["ones"], to=types.INT32),
        helper.make_node("Sub", ["one", "ones"], ["others"]),
        helper.make_node("CumSum", ["ones", "axis"], ["ranks"]),
        helper.make_node("CumSum", ["others", "axis"], ["other_ranks"]),
        helper.make_node("ReduceSum", ["ones", "axes"], ["count"], keepdims=1),
        helper.make_node("Add", ["other_ranks", "count"], ["behind"]),
        helper.make_node("Where", ["mask", "ranks", "behind"], ["places1"]),
        helper.make_node("Sub", ["places1", "one"], ["places0"]),
        helper.make_node("Cast", ["places0"], ["places"], to=types.INT64),
        helper.make_node("Mul", ["places", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "unit"], ["units"]),
        helper.make_node("CumSum", ["units", "axis"], ["positions1"]),
        helper.make_node("Sub", ["positions1", "unit"], ["positions"]),
        helper.make_node("ScatterElements", ["zeros", "places", "positions"], ["active"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "router",
        [helper.make_tensor_value_info("input", types.FLOAT, [1, 3, "height", "width"])],
        [
            helper.make_tensor_value_info("active", types.INT64, ["pixels"]),
            helper.make_tensor_value_info("count", types.INT32, [1]),
        ],
        [
            constant("zero", np.int64(0)),
            constant("flat", np.array([-1])),
            constant("half", np.float32(0.5)),
            constant("one", np.array([1], np.int32)),
            constant("axis", np.int32(0)),
            constant("axes", np.array([0])),
            constant("nothing", np.array([0])),
            constant("unit", np.array([1])),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture(scope="module")
def plans(
    tmp_path_factory: pytest.TempPathFactory, write_model: Callable, identity: Callable
) -> dict[str, Path]:
    """Real plans by kind: dense, told, routing."""
    folder = tmp_path_factory.mktemp("plans")
    found = {}
    for kind, model in (
        ("dense", "atd-light"),
        ("told", "pp-atd-light"),
        ("routing", "pp-atd-light"),
    ):
        path = found[kind] = folder / f"{kind}.plan"
        options = {"form": "routed", "model": model}
        source = write_model(folder / f"{kind}.onnx", **options).read_bytes()
        pairs = [(path, source)]
        if kind == "routing":
            pairs.append((routing_path(path), router()))
        for target, graph in pairs:
            data = build(graph)
            target.write_bytes(data)
            plan = Plan("tensorrt-rtx", trt.__version__, sha256(data))
            sidecar = Sidecar(identity(**options), sha256(graph), profiles=PROFILES, plan=plan)
            sidecar_path(target).write_text(sidecar.to_text())
    return found


def test_plans_are_built_without_a_gpu(plans: dict[str, Path]) -> None:
    assert all(path.read_bytes().startswith(b"vtrt") for path in plans.values())
    assert routing_path(plans["routing"]).exists()


def test_the_router_does_what_its_fake_does() -> None:
    """In onnxruntime: active tokens first and in order, then the others; their number."""
    ort = pytest.importorskip("onnxruntime")
    image = np.random.default_rng(0).random((1, 3, 16, 32), np.float32)
    session = ort.InferenceSession(router(), providers=["CPUExecutionProvider"])
    active, count = session.run(["active", "count"], {"input": image})
    expected = np.flatnonzero(image[0, 0] > 0.5)
    assert count.tolist() == [len(expected)]
    np.testing.assert_array_equal(active[: len(expected)], expected)
    assert sorted(active) == list(range(16 * 32))


def test_the_real_module_says_why_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """On any machine: what is no plan is refused by the real runtime, through our logger."""
    from ppsr.runtime.plan import _deserialise

    loaded = _deserialise(trt, Path("a.plan"), b"no plan at all" * 100, None)
    assert loaded.engine is None
    assert "magic" in loaded.log.said
    assert "\n" not in loaded.log.said
    assert not loaded.runtime.engine_host_code_allowed
    loaded.close()
    assert capfd.readouterr() == ("", "")


def test_what_the_runtime_calls_is_there() -> None:
    """The real module has the names that the fake has."""
    context = trt.IExecutionContext
    for name in (
        *("set_optimization_profile_async", "set_input_shape", "set_tensor_address"),
        *("update_device_memory_size_for_shapes", "set_device_memory", "get_tensor_shape"),
        "execute_async_v3",
    ):
        assert callable(getattr(context, name))
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert trt.IRuntimeConfig.cuda_graph_strategy.fset


@needs_gpu
@pytest.mark.parametrize("kind", ["dense", "told", "routing"])
def test_pictures_of_several_sizes(plans: dict[str, Path], photo: Callable, kind: str) -> None:
    sizes = [(61, 83), (150, 201), (16, 16), (61, 83), (61, 83), (61, 83), (150, 201)]
    with Upscaler.open(plans[kind]) as up:
        for size in sizes:
            rgb = photo("coffee", *size)
            result = up.upscale(rgb)
            np.testing.assert_array_equal(result.pixels, rgb.repeat(2, 0).repeat(2, 1))
            if kind == "routing":
                height, width = size
                active = pad_to_grid(rgb)[..., 0] > 127
                assert result.pure == pytest.approx(1 - active[:height, :width].mean())
                assert result.routing_milliseconds is not None
                assert 0 < result.routing_milliseconds < result.milliseconds
