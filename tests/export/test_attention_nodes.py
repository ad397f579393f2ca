"""Graphs tuned for one runtime: what the operator becomes, and that it does what the network does.

Both are plain ONNX: onnxruntime runs them here. What OpenVINO makes of its own is in test_openvino.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from ppsr.export.attention_nodes import bodies, share_weights, spell_linear, spell_scans
from ppsr.export.chunked import DOMAIN, OPERATOR, ChunkedAttention
from ppsr.export.openvino_surgery import CATEGORY
from ppsr.export.options import ATTENTION_OPSET
from ppsr.export.reference import Reference
from ppsr.export.tuning import GROUPS, RECIPES, WINDOWS
from ppsr.export.verify import verify
from ppsr.models.category import NO_KEY
from ppsr.models.errors import ParityError
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT

ATOL = 1e-5
SIZES = ((16, 16), (17, 40), (37, 50), (64, 64), (16, 400))
FORMS = pytest.mark.parametrize("form", ["routed", "self-contained"])
TUNINGS = pytest.mark.parametrize("tuning", ["onnxruntime", "openvino"])
SPELLINGS = pytest.mark.parametrize(
    ("spell", "chunk"), [(spell_scans, 1), (spell_scans, 3), (spell_linear, 1)]
)
ATTENTIONS = [f"{layer}.{kind}.attention" for layer in (0, 1) for kind in ("attn_win", "attn_aca")]
WEIGHTS = ("q", "k", "v", "bias", "proj.weight", "proj.bias")


def operators(graph: GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


def attentions(graph: GraphProto, operator: str) -> list[str]:
    """Where, by layer and attention, nodes of this kind are."""
    names = [node.name for node in graph.node if node.op_type == operator]
    return [name.partition(".layers.")[2] for name in names if ".attention/" in name]


@FORMS
@TUNINGS
@pytest.mark.parametrize("optimise", [False, True], ids=["as-is", "optimised"])
def test_the_graph_does_what_the_network_does(
    running: Callable,
    network: Callable,
    crops: Callable,
    tuning: str,
    form: str,
    optimise: bool,
) -> None:
    """Photos of all sizes, then a flat picture without an active token, and noise, all active."""
    run = running("tiny", form, tuning=tuning, optimise=optimise)
    assert len(run.categories) == 2
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    flat = np.full((24, 40, 3), 90, np.uint8)
    shares = []
    for rgb in (*(crop.rgb for crop in crops(*SIZES)), flat, noise):
        report = run.compare(Reference(network()), rgb)
        assert report.failure("fp32", ATOL) is None, report
        height, width = (-(-size // 16) * 16 for size in rgb.shape[:2])
        shares.append(report.active / (height * width))
    assert shares[-2:] == [0, 1]
    assert any(0.1 < share < 0.9 for share in shares)


@TUNINGS
@pytest.mark.parametrize("count", [0, 1, 100, 127, 128, 129, 1536])
def test_every_number_of_active_tokens(
    running: Callable, network: Callable, photo: Callable, tuning: str, count: int
) -> None:
    rgb, order = photo("coffee", 32, 48), np.random.default_rng(count).permutation(1536)
    active, others = np.sort(order[:count]), np.sort(order[count:])
    image = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32) / np.float32(255)
    session = running(tuning=tuning).session
    got, inverted = (
        session.run([OUTPUT], {INPUT: image, ACTIVE: tokens})[0] for tokens in (active, others)
    )
    with torch.no_grad():
        wanted = network().upscale(torch.from_numpy(image), torch.from_numpy(active)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=ATOL)
    assert np.abs(inverted - wanted).max() > 10 * ATOL, "the mask makes no difference"


@FORMS
@TUNINGS
def test_the_graph_is_plain_onnx(graph: Callable, tuning: str, form: str) -> None:
    model, artefact = graph("tiny", form, tuning=tuning)
    onnx.checker.check_model(model, full_check=True)
    assert artefact.tuned_for == tuning
    assert artefact.stem.endswith(f"_{tuning}")
    assert model.graph.name == artefact.stem
    assert not model.functions
    opset = 23 if tuning == "onnxruntime" else 20
    assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]
    assert artefact.opset == opset
    nodes = [node for one in (model.graph, *bodies(model.graph)) for node in one.node]
    assert {node.domain for node in nodes} == {""}
    routed = form == "routed"
    assert [value.name for value in model.graph.input] == [INPUT, ACTIVE][: 1 + routed]
    assert [value.name for value in model.graph.output] == [OUTPUT]
    for names in ([node.name for node in nodes], [name for node in nodes for name in node.output]):
        assert all(names)
        assert len(names) == len(set(names))


@FORMS
def test_onnxruntime_gets_scans(graph: Callable, form: str) -> None:
    """Of both attentions of 2 layers; the second's windows are shifted, with and without codes."""
    graph_made = graph("tiny", form, tuning="onnxruntime")[0].graph
    windows, groups = ATTENTIONS[::2], ATTENTIONS[1::2]
    assert attentions(graph_made, "Scan") == [f"{one}/Scan" for one in windows]
    assert attentions(graph_made, "If") == [f"{one}/If" for one in groups]
    assert operators(graph_made)["ArgMax"] == 2
    inside = [operators(one) for one in bodies(graph_made)]
    assert [one["MatMul"] for one in inside if one["Attention"]] == [4] * 7
    assert [one["Scan"] for one in inside if one["Scan"]] == [1] * 4
    every = sum(inside, operators(graph_made))
    assert every["Attention"] == 7
    assert every["Gemm"] == 0, "its bias is written by one thread"
    assert every["Softmax"] == 2 + 1, "of the similarity, and of one refinement"


@FORMS
def test_a_mask_is_added_only_where_tokens_are_few(graph: Callable, form: str) -> None:
    nodes = graph("tiny", form, tuning="onnxruntime")[0].graph.node
    masked = [
        {
            branch.name: [
                len(node.input) == 4
                for body in bodies(branch.g)
                for node in body.node
                if node.op_type == "Attention"
            ]
            for branch in node.attribute
        }
        for node in nodes
        if node.op_type == "If" and ".attention/" in node.name
    ]
    assert masked == [{"then_branch": [True], "else_branch": [False]}] * 2


@FORMS
def test_heads_have_room_for_codes_only_where_windows_are_shifted(
    graph: Callable, form: str
) -> None:
    """Of 4 heads of 12 channels."""
    graph_made = graph("tiny", form, tuning="onnxruntime")[0].graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph_made.initializer}
    ends = ("q", "k", "q/wide", "k/wide")
    widths = {
        (one, end): {shapes[name][1] for name in shapes if name.endswith(f"{one}.{end}")}
        for one in ATTENTIONS
        for end in ends
    }
    for end in ends[2:]:
        assert widths.pop((ATTENTIONS[2], end)) == {64}
        assert not set().union(*(widths.pop((one, end), ()) for one in ATTENTIONS))
    assert widths[ATTENTIONS[2], "q"] == {48}
    assert set().union(*widths.values()) == {48}


@pytest.mark.parametrize("weight", ["q", "proj.weight/linear"])
def test_chunks_inside_the_picture_have_no_codes(
    graph: Callable, network: Callable, photo: Callable, weight: str
) -> None:
    """32 x 48: 2 of 6 windows are inside, in a chunk with others. 64 x 64: 9 of 16, in 3 chunks."""
    model, artefact = graph(tuning="onnxruntime")
    small, large = ([photo("coffee", *size)] for size in ((32, 48), (64, 64)))
    reference = Reference(network())
    name, _, behind = weight.partition("/")
    ends = (f"1.attn_win.attention.{name}{end}/{behind}".rstrip("/") for end in ("/wide", ""))
    wide, own = (changed(model, end, 2) for end in ends)
    verify(own, artefact, reference, small, ATOL)
    for one in (own, wide):
        with pytest.raises(ParityError):
            verify(one, artefact, reference, large, ATOL)


@FORMS
def test_chunks_have_the_size_that_was_asked_for(graph: Callable, form: str) -> None:
    graph_made = graph("tiny", form, tuning="onnxruntime")[0].graph
    shapes = [
        numpy_helper.to_array(tensor).tolist()
        for tensor in graph_made.initializer
        if tensor.data_type == TensorProto.INT64 and tensor.dims == [4]
    ]
    assert [-1, WINDOWS, 256, 48] in shapes
    assert [-1, GROUPS, 128, 48] in shapes


@FORMS
def test_openvino_gets_what_it_fuses(graph: Callable, form: str) -> None:
    graph_made = graph("tiny", form, tuning="openvino")[0].graph
    assert not {"Scan", "Loop", "ArgMax", "TopK"} & set(operators(graph_made))
    assert not list(bodies(graph_made))
    assert attentions(graph_made, "Softmax") == [f"{one}/Softmax" for one in ATTENTIONS]
    outputs = [name for node in graph_made.node for name in node.output]
    assert [name for name in outputs if name.endswith(CATEGORY)] == [
        f"layers.0.residual_group.layers.{layer}.attn_aca/category" for layer in (0, 1)
    ]


@FORMS
@TUNINGS
def test_weights_are_stored_once(
    graph: Callable, network: Callable, tuning: str, form: str
) -> None:
    model = graph("tiny", form, tuning=tuning)[0]
    assert not any(one.initializer for one in bodies(model.graph))
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(names) == len(set(names))
    values = [numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer]
    large = [one for one in values if len(one) >= 1024]
    assert len(large) == len(set(large))
    nodes = [node for one in (model.graph, *bodies(model.graph)) for node in one.node]
    assert set(names) <= {name for node in nodes for name in node.input}, "what nothing reads"
    weights = 4 * sum(weight.numel() for weight in network().parameters())
    assert weights < model.ByteSize() < 1.42 * weights, "of shifted windows two widths"


def test_the_bodies_weights_are_lifted(body: Callable, front_end: Callable) -> None:
    """graphsurgeon puts them into the bodies; outside they are the same ones."""
    source = body("tiny", False, "onnxruntime")
    assert all(one.initializer for one in bodies(source.graph) if operators(one)["Attention"])
    before, shared = source.SerializeToString(), share_weights(source)
    assert source.SerializeToString() == before
    assert shared.ByteSize() < 0.95 * source.ByteSize()
    outside = {tensor.name: numpy_helper.to_array(tensor) for tensor in shared.graph.initializer}
    for one in bodies(source.graph):
        for tensor in one.initializer:
            np.testing.assert_array_equal(outside[tensor.name], numpy_helper.to_array(tensor))
    again = share_weights(shared)
    assert again.SerializeToString() == shared.SerializeToString()
    plain = front_end()
    assert share_weights(plain).SerializeToString() == plain.SerializeToString()


def perturbed(model: onnx.ModelProto, kind: str, weight: str, factor: float) -> onnx.ModelProto:
    """Change one weight of an attention of the last layer; the two may share theirs.

    Of windows, those that their chunks at the border have, if there are any.
    """
    ends = [
        f"layers.1.{one}.attention.{weight}{behind}"
        for one in (kind, "attn_win")
        for behind in ("/wide", "/wide/linear", "", "/linear")
    ]
    names = [tensor.name for tensor in model.graph.initializer]
    return changed(model, next(end for end in ends if any(n.endswith(end) for n in names)), factor)


def changed(model: onnx.ModelProto, end: str, factor: float) -> onnx.ModelProto:
    """A copy with the weight whose name ends so multiplied."""
    copied = onnx.ModelProto.FromString(model.SerializeToString())
    (tensor,) = (tensor for tensor in copied.graph.initializer if tensor.name.endswith(end))
    values = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copied


@pytest.mark.parametrize("kind", ["attn_win", "attn_aca"])
@pytest.mark.parametrize(
    ("tuning", "weight"),
    [("openvino", one) for one in WEIGHTS]
    + [("onnxruntime", one) for one in WEIGHTS if "bias" not in one],  # Others carry them there.
)
def test_a_changed_weight_is_seen(
    graph: Callable, network: Callable, photo: Callable, tuning: str, kind: str, weight: str
) -> None:
    model, artefact = graph(tuning=tuning)
    rgb, reference = photo("coffee", 32, 48), Reference(network())
    verify(perturbed(model, kind, weight, 1), artefact, reference, [rgb], ATOL)
    with pytest.raises(ParityError, match=f"_routed_{tuning} does not do what the network does"):
        verify(perturbed(model, kind, weight, 2), artefact, reference, [rgb], ATOL)


@TUNINGS
def test_another_network_is_seen(
    graph: Callable, network: Callable, photo: Callable, tuning: str
) -> None:
    other = copy.deepcopy(network())
    with torch.no_grad():
        other.layers[0].residual_group.layers[1].attn_aca.logit_scale.mul_(1.05)
    with pytest.raises(ParityError, match="outputs differ by"):
        verify(*graph(tuning=tuning), Reference(other), [photo()], ATOL)


@TUNINGS
def test_every_stage_leaves_its_input_alone(traced: Callable, tuning: str) -> None:
    model = traced(tuning=tuning)
    found = [(node.domain, node.op_type) for node in model.graph.node]
    assert found.count((DOMAIN, OPERATOR)) == 4
    for _, stage in RECIPES[tuning].stages:
        before = model.SerializeToString()
        made = stage(model)
        assert model.SerializeToString() == before
        model = made


def one_attention(
    attention: ChunkedAttention, added: dict[str, np.ndarray], chunk: int
) -> onnx.ModelProto:
    """A graph of the operator alone, as the tracer writes it, next to a node that stays.

    added: "bias", "coded" and "mask", weights here; codes are inputs where the heads have room for
    them.
    """
    weights = {name: attention.get_parameter(name).detach().numpy() for name in WEIGHTS}
    codes = ("query", "key") if attention.codes else ("", "")
    operands = ["tokens", *WEIGHTS, "table" if "bias" in added else "", *codes]
    operands += [name if name in added else "" for name in ("coded", "mask")]
    attributes = {"heads": 4, "codes": attention.codes}
    node = helper.make_node(OPERATOR, operands, ["y"], "a.b/it", domain=DOMAIN, **attributes)
    value, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    inputs = [value("tokens", kind, ["n", chunk, 20, 48])]
    inputs += [value(name, kind, ["n", chunk, 20, 64]) for name in codes if name]
    named = {{"bias": "table"}.get(name, name): array for name, array in added.items()}
    graph = helper.make_graph(
        [helper.make_node("Neg", ["y"], ["z"], "a.b/Neg"), node][::-1],
        "g",
        inputs,
        [value("z", kind, ["n", chunk * 20, 48])],
        [numpy_helper.from_array(array, name) for name, array in (weights | named).items()],
    )
    opsets = [helper.make_opsetid("", ATTENTION_OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


@SPELLINGS
@pytest.mark.parametrize("adds", ["", "bias", "mask", "empty mask"])
@pytest.mark.parametrize("codes", [0, 4], ids=["", "codes"])
def test_the_operator_is_what_torch_computes(
    spell: Callable, chunk: int, adds: str, codes: int, onnxruntime_runs: Callable
) -> None:
    torch.manual_seed(0)
    attention = ChunkedAttention(nn.Linear(48, 144), nn.Linear(48, 48), 4, 0.3, codes)
    added = {
        "": {},
        "bias": {"bias": torch.randn(1, 4, 20, 20)},
        "mask": {"mask": NO_KEY * (torch.arange(20) > 12).float().expand(20, 20)},
        "empty mask": {"mask": torch.zeros(20, 20)},
    }[adds]
    feeds = {"tokens": torch.randn(5, chunk, 20, 48)}
    if codes:
        feeds |= {name: torch.randn(5, chunk, 20, 64) for name in ("query", "key")}
        if adds != "mask":
            added["coded"] = torch.tensor([False, True, True, False, True])
            for code in ("query", "key"):
                feeds[code][~added["coded"]] = 0
    with torch.no_grad():
        wanted = -attention(**feeds, **added)
    arrays = {name: value.contiguous().numpy() for name, value in added.items()}
    model = one_attention(attention, arrays, chunk)
    before = model.SerializeToString()
    spelt = spell(model)
    assert model.SerializeToString() == before
    assert [opset.domain for opset in spelt.opset_import] == [""]
    (got,) = onnxruntime_runs(spelt, {name: feed.numpy() for name, feed in feeds.items()})
    np.testing.assert_allclose(got.reshape(-1, 48), wanted.numpy(), rtol=0, atol=1e-5)


@SPELLINGS
def test_other_nodes_stay(spell: Callable, chunk: int) -> None:
    """An operator of the same name in another domain too."""
    kept: list[NodeProto] = [
        helper.make_node("Neg", ["x"], ["y"]),
        helper.make_node(OPERATOR, ["y"], ["z"], domain="other"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        kept, "g", [value("x", TensorProto.FLOAT, [1])], [value("z", TensorProto.FLOAT, [1])]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("other", 1)]
    model = helper.make_model(graph, opset_imports=opsets)
    assert spell(model).SerializeToString() == model.SerializeToString()
