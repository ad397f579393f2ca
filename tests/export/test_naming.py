"""Names say which module a node belongs to, and islands find what they are named after."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable

import onnx
import pytest
from onnx import helper

from ppsr.export.fold import fold
from ppsr.export.islands import CAUTIOUS, Island
from ppsr.export.naming import name_nodes

LAYER = re.compile(r"layers\.(\d)\.residual_group\.layers\.(\d)\.")


def test_names_are_unique_and_say_the_module(network: Callable, graph: Callable) -> None:
    modules = {name for name, _ in fold(network("pp-atd-light")).named_modules()}
    for form in ("routed", "self-contained"):
        model = graph("pp-atd-light", form)[0]
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        scopes = {name.rpartition("/")[0] for name in names}
        front = {s for s in scopes if s.split("/")[0].split(".")[0] in ("front", "purity", "crop")}
        assert scopes - front <= modules
        assert bool(front) == (form == "self-contained")
        for node in model.graph.node:
            assert re.fullmatch(r"[A-Z]\w+", node.name.rpartition("/")[2])


def test_every_module_with_weights_has_nodes(network: Callable, graph: Callable) -> None:
    scopes = {node.name.rpartition("/")[0] for node in graph("pp-atd-light")[0].graph.node}
    owners = {
        # The linear layers of the feed-forward network are convolutions of its own (fold.py).
        re.sub(r"convffn\.fc\d", "convffn", name)
        for name, module in network("pp-atd-light").named_modules()
        if list(module.parameters(recurse=False)) and not name.endswith("residual_group")
    }
    # The first dictionaries are constants, and with them what is made of them.
    owners -= {
        f"layers.{b}.residual_group.layers.0.attn_atd.{w}" for b in range(4) for w in ("wk", "wv")
    }
    assert {name for name in owners if name not in scopes and not LAYER.match(name)} == set()
    assert {name for name in owners if name not in scopes and "norm3" not in name} == set()


@pytest.mark.parametrize("island", CAUTIOUS, ids=lambda island: island.name)
@pytest.mark.parametrize("name", ["pp-atd-light", "atd-light"])
def test_islands_hold_the_same_in_every_layer(graph: Callable, name: str, island: Island) -> None:
    """But for what all layers share, computed under the name of the first: the codes of spare
    places; and for what the first layer of a block makes of its dictionary, which is a constant.
    Any other difference is a node that left its island."""
    found: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for node in graph(name)[0].graph.node:
        if re.search(island.pattern, node.name):
            layer = LAYER.match(node.name)
            assert layer is not None, f"{node.name} belongs to no layer"
            found[layer.groups()][node.op_type] += 1
    every = {(str(block), str(layer)) for block in range(4) for layer in range(6)}
    if island.name == "refinement":
        every -= {(str(block), "5") for block in range(4)}
    assert set(found) == every
    shared = found["0", "0"] - found["1", "0"]
    masks = island.name == "category logits" and name == "pp-atd-light"
    assert shared == (Counter(Pad=2) if masks else Counter())
    found["0", "0"] -= shared
    folded = [found[key] for key in every if key[1] == "0"]
    others = [found[key] for key in every if key[1] != "0"]
    for kind in (folded, others):
        assert len({tuple(sorted(ops.items())) for ops in kind}) == 1, found
    constant = others[0] - folded[0]
    assert constant == (
        Counter(MatMul=1, Add=1, LayerNormalization=1, Mul=1, Transpose=1)
        if island.name == "similarity"
        else Counter()
    )


def test_islands_hold_what_they_are_for(graph: Callable) -> None:
    wanted = {
        "similarity": {"Softmax": 24, "MatMul": 24 * 4 - 4, "LayerNormalization": 24 * 2 - 4},
        "category logits": {"Softmax": 24, "MatMul": 24},
        "refinement": {"Softmax": 20, "MatMul": 20, "InstanceNormalization": 20},
    }
    for island in CAUTIOUS:
        found = Counter(
            node.op_type
            for node in graph("pp-atd-light")[0].graph.node
            if re.search(island.pattern, node.name)
        )
        assert {op: found[op] for op in wanted[island.name]} == wanted[island.name]


def scoped(op: str, output: str, scopes: str | None) -> onnx.NodeProto:
    node = helper.make_node(op, ["x"], [output], doc_string="/home/me/a.py")
    if scopes is not None:
        entry = node.metadata_props.add()
        entry.key, entry.value = "pkg.torch.onnx.name_scopes", scopes
    note = node.metadata_props.add()
    note.key, note.value = "pkg.torch.onnx.stack_trace", "File a.py"
    return node


def test_names_by_hand() -> None:
    value = helper.make_tensor_value_info("x", 1, [2])
    nodes = [
        scoped("Neg", "a", "['', 'network', 'network.layers.0', 'neg']"),
        scoped("Neg", "b", "['', 'network', 'network.layers.0', 'neg_1']"),
        scoped("Abs", "c", "['', 'network', 'network.layers.0', 'abs']"),
        scoped("Abs", "d", None),
        scoped("Abs", "e", "['abs']"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [value], [helper.make_tensor_value_info("e", 1, [2])])
    )
    model.graph.doc_string = "File a.py"
    before = model.SerializeToString()
    named = name_nodes(model, root="front")
    assert model.SerializeToString() == before
    assert [node.name for node in named.graph.node] == [
        *("layers.0/Neg", "layers.0/Neg_1", "layers.0/Abs", "front/Abs", "front/Abs_1"),
    ]
    assert [node.name for node in name_nodes(model).graph.node][3:] == ["Abs", "Abs_1"]
    assert b".py" not in named.SerializeToString()
