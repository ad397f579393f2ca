"""What is traced: dynamic sizes, every number of active tokens, no data-dependent operator."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch.fx.experimental import _config as shape_config

from ppsr.export.compose import write_metadata
from ppsr.export.naming import name_nodes
from ppsr.export.reference import Reference
from ppsr.export.trace import FrontEnd, trace_front_end, trace_network, trace_router
from ppsr.export.verify import GraphRun, verify_routing
from ppsr.models.config import PurePass
from ppsr.models.errors import ParityError
from ppsr.models.pure_pass import active_tokens, pad_to_grid, pure_pixels
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT, Artefact

DATA_DEPENDENT = {
    *("Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Sort", "TopK", "Unique"),
    *("Bernoulli", "Multinomial", "RandomNormal", "RandomUniform", "RandomUniformLike"),
}
REAL = ["pp-atd-light", "atd-light"]
ATOL = 1e-4
"""The difference between two FP32 runs is 1e-6; another choice of tokens makes 1e-3 and more."""


def operators(model: onnx.ModelProto) -> Counter[str]:
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    subgraphs = [a for n in model.graph.node for a in n.attribute if a.HasField("g") or a.graphs]
    assert subgraphs == []
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("name", REAL)
def test_nothing_in_the_routed_graph_depends_on_data(graph: Callable, name: str) -> None:
    found = operators(graph(name)[0])
    assert not DATA_DEPENDENT & set(found)
    assert found["ArgMax"] == 24
    assert found["LayerNormalization"] >= 2 * 24
    assert found["Gelu"] == 2 * 24


@pytest.mark.parametrize("name", REAL)
def test_the_self_contained_graph_has_one_nonzero(graph: Callable, name: str) -> None:
    found = operators(graph(name, "self-contained")[0])
    assert {op: found[op] for op in DATA_DEPENDENT & set(found)} == (
        {"NonZero": 1} if name == "pp-atd-light" else {}
    )


@pytest.mark.parametrize("name", REAL)
def test_inputs_outputs_and_file_format(graph: Callable, name: str) -> None:
    for form in ("routed", "self-contained"):
        model, artefact = graph(name, form)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
        assert model.ir_version == 10
        routed = form == "routed" and artefact.pure_pass is not None
        assert [v.name for v in model.graph.input] == [INPUT, ACTIVE][: 1 + routed]
        assert [v.name for v in model.graph.output] == [OUTPUT]


@pytest.fixture(scope="module")
def crop(photo: Callable) -> np.ndarray:
    """32 x 48: 1536 tokens."""
    rgb: np.ndarray = photo("coffee", 32, 48)
    return rgb


def routed(run: GraphRun, rgb: np.ndarray, active: np.ndarray) -> np.ndarray:
    image = rgb.transpose(2, 0, 1)[None].astype(np.float32) / 255
    output: np.ndarray = run.session.run([OUTPUT], {INPUT: image, ACTIVE: active})[0]
    return output


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 1536])
@pytest.mark.parametrize("optimise", [False, True], ids=["as-is", "optimised"])
def test_every_number_of_active_tokens(
    running: Callable, network: Callable, crop: np.ndarray, count: int, optimise: bool
) -> None:
    run, eager = running("pp-atd-light", optimise=optimise), network("pp-atd-light")
    order = np.random.default_rng(count).permutation(1536)
    active, others = np.sort(order[:count]), np.sort(order[count:])
    got = routed(run, crop, active)
    image = torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0).float() / 255
    expected = eager.upscale(image, torch.from_numpy(active)).numpy()
    assert got.shape == expected.shape == (1, 3, 64, 96)
    np.testing.assert_allclose(got, expected, rtol=0, atol=ATOL)
    inverted = routed(run, crop, others)
    assert np.abs(inverted - expected).max() > 10 * ATOL, "the mask makes no difference"
    assert np.abs(expected).max() > 1000 * ATOL, "zeros would pass"


@pytest.mark.parametrize("optimise", [False, True], ids=["as-is", "optimised"])
@pytest.mark.parametrize("value", [0, 255])
def test_flat_picture_has_no_active_token(
    running: Callable, network: Callable, optimise: bool, value: int
) -> None:
    run = running("pp-atd-light", "self-contained", optimise=optimise)
    report = run.compare(Reference(network("pp-atd-light")), np.full((24, 40, 3), value, np.uint8))
    assert report.active == 0
    assert report.max_abs <= ATOL
    assert (report.flipped, report.ties) == (0, 0)


@pytest.mark.parametrize("opset", [21, 22])
def test_other_opsets(network: Callable, photo: Callable, graph: Callable, opset: int) -> None:
    model = name_nodes(trace_network(network(), opset)) if opset == 22 else None
    front = trace_front_end(network(), opset)
    for made in (model, front):
        if made is not None:
            assert [(o.domain, o.version) for o in made.opset_import] == [("", opset)]
            assert made.ir_version == 10
    if model is not None:
        report = GraphRun(model, graph()[1]).compare(Reference(network()), photo())
        assert report.failure("fp32", ATOL) is None


def test_tracing_is_silent_and_leaves_no_trace(
    network: Callable, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    level = logging.getLogger("torch.onnx").level
    before = shape_config.backed_size_oblivious
    trace_front_end(network(), 20)
    monkeypatch.setattr(torch.onnx, "export", None)
    with pytest.raises(TypeError):
        trace_front_end(network(), 20)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert logging.getLogger("torch.onnx").level == level
    assert shape_config.backed_size_oblivious is before


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (9, 23), (16, 16), (17, 40), (37, 50)])
def test_front_end_pads_and_routes_as_the_host(
    network: Callable, photo: Callable, size: tuple[int, int]
) -> None:
    rgb = photo("chelsea", *size)
    image = torch.from_numpy(rgb.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
    padded, active = FrontEnd(network().purity)(image)
    expected = pad_to_grid(rgb)
    np.testing.assert_array_equal(
        padded[0].permute(1, 2, 0).numpy(), expected.astype(np.float32) / 255
    )
    np.testing.assert_array_equal(active.numpy(), active_tokens(pure_pixels(expected)))
    (alone,) = FrontEnd(None)(image)
    assert torch.equal(alone, padded)


def test_the_traced_size_is_nowhere_in_the_graph(graph: Callable) -> None:
    """48 x 80 has 3840 tokens and 15 windows: as a constant, one would freeze the size."""
    model = graph("pp-atd-light")[0]
    small = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    ]
    numbers = {int(v) for values in small if values.size < 8 for v in values.reshape(-1)}
    assert not numbers & {80, 3840, 3540, 3541, 29, 28}


@pytest.fixture(scope="module")
def router(network: Callable) -> tuple[onnx.ModelProto, Artefact]:
    artefact = Artefact("pp-atd-light", 2, "routing", "fp32", 20, "7" * 64, "0", PurePass())
    return write_metadata(name_nodes(trace_router(network(), 20), "routing"), artefact), artefact


def test_the_routing_finds_the_tokens_of_the_host(router: tuple, photo: Callable) -> None:
    """All, some and none of them; grey pixels, which are ties, and sizes of every shape."""
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (40, 70, 1), np.uint8), 3, 2)
    noise = np.random.default_rng(1).integers(0, 256, (33, 17, 3), np.uint8)
    flat = np.full((16, 128, 3), 90, np.uint8)
    pictures = [photo("coffee", 64, 96), photo("rocket", 37, 50), grey, noise, flat]
    verify_routing(*router, pictures)
    assert not DATA_DEPENDENT & set(operators(router[0]))


def test_a_routing_with_other_settings_is_noticed(router: tuple, photo: Callable) -> None:
    model, artefact = router
    other = replace(artefact, pure_pass=PurePass(shift=0))
    with pytest.raises(ParityError, match=r"pp-atd-light_routing does not .* other tokens than"):
        verify_routing(model, other, [photo("coffee", 64, 96)])


def test_a_dense_network_has_no_routing(network: Callable) -> None:
    with pytest.raises(ValueError, match="expected a network with Pure-Pass"):
        trace_router(network("atd-light"), 20)
