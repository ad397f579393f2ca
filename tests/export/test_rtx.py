"""TensorRT for RTX takes the routed graph: no GPU is needed to parse it and to build the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest

from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT

pytestmark = pytest.mark.rtx
trt: Any = pytest.importorskip("tensorrt_rtx")


class Parsed:
    """A strongly typed network, with all that has to stay alive beside it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.logger = trt.Logger(trt.Logger.ERROR)
        self.builder = trt.Builder(self.logger)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(flags)
        parser = trt.OnnxParser(self.network, self.logger)
        done = parser.parse(model.SerializeToString())
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        assert done, "\n".join(errors)
        assert errors == []

    def inputs(self) -> dict[str, Any]:
        tensors = (self.network.get_input(i) for i in range(self.network.num_inputs))
        return {tensor.name: tensor.dtype for tensor in tensors}

    def build(self, **shapes: tuple[Any, Any, Any]) -> Any:
        """The serialized plan for one profile of (min, opt, max) by input, None on failure."""
        config, profile = (
            self.builder.create_builder_config(),
            self.builder.create_optimization_profile(),
        )
        for name, shape in shapes.items():
            profile.set_shape(name, *shape)
        config.add_optimization_profile(profile)
        return self.builder.build_serialized_network(self.network, config)


@pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
def test_the_routed_graph_builds(graph: Callable, fp16: bool) -> None:
    parsed = Parsed(graph("pp-atd-light", fp16=fp16)[0])
    assert parsed.inputs() == {INPUT: trt.float32, ACTIVE: trt.int64}
    output = parsed.network.get_output(0)
    assert (output.name, output.dtype, parsed.network.num_outputs) == (OUTPUT, trt.float32, 1)
    network = parsed.network
    found = [network.get_layer(i).get_output(0).dtype for i in range(network.num_layers)]
    assert (found.count(trt.float16) > 1000) == fp16
    assert found.count(trt.float32) > 300
    plan = parsed.build(
        input=((1, 3, 16, 16), (1, 3, 64, 64), (1, 3, 128, 128)),
        active=((0,), (2048,), (128 * 128,)),
    )
    assert plan is not None
    assert plan.nbytes > 1_000_000


@pytest.mark.parametrize("fp16", [False, True], ids=["fp32", "fp16"])
def test_the_dense_graph_has_one_input(graph: Callable, fp16: bool) -> None:
    assert Parsed(graph("atd-light", fp16=fp16)[0]).inputs() == {INPUT: trt.float32}


def test_parser_errors_are_told(graph: Callable) -> None:
    """The self-contained graph has a NonZero, which this parser does not know."""
    with pytest.raises(AssertionError, match="NonZero"):
        Parsed(graph("tiny", "self-contained")[0])
