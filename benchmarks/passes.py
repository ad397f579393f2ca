"""What each step of the graphs for CPUs is worth, and what was tried and is not in them.

    python benchmarks/passes.py make        # traces, into artifacts/passes (minutes)
    python benchmarks/passes.py measure     # adds "passes" to benchmarks/results/speed.json

Every variant is run on one crop of the sample photo, in turns with all others of its runtime. The
chunks of several sizes have the passes of the graph that is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper
from speed import CORNER, SIZE, crop_of_photo, record, timed
from torch import Tensor, nn

from ppsr.export import tuning
from ppsr.export.attention_nodes import INPUTS, share_weights, spell_linear, spell_scans
from ppsr.export.chunked import OPERATOR
from ppsr.export.compose import write_metadata
from ppsr.export.cpu_layer import fold_for_cpu
from ppsr.export.fold import PointwiseFeedForward
from ppsr.export.index_surgery import INDEX_PASSES
from ppsr.export.naming import name_nodes
from ppsr.export.openvino_surgery import OPENVINO_PASSES
from ppsr.export.options import ATTENTION_OPSET, OPSETS
from ppsr.export.ort_surgery import ORT_PASSES
from ppsr.export.surgery import PASSES, Pass, run_passes
from ppsr.export.trace import trace_network
from ppsr.models import build
from ppsr.models.atd import ATD, Layer
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.backend import Device
from ppsr.runtime.bench.timing import Timing, in_turns
from ppsr.runtime.command import reports_errors
from ppsr.runtime.tiles import WHOLE
from ppsr.runtime.upscaler import Upscaler

ORDERS = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
"""Of the axes of query, key and value: heads first, the key's channels before its places."""
FOLDER = Path(__file__).parents[1] / "artifacts/passes"


@dataclass(frozen=True)
class Variant:
    """How one graph is made, and where it runs."""

    fold: Callable[[ATD], ATD]
    spell: Callable[[onnx.ModelProto], onnx.ModelProto]
    passes: tuple[Pass, ...] = ()
    devices: tuple[Device, ...] = ("cpu",)


OPENVINO: tuple[Device, ...] = ("openvino", "openvino-bf16")
AS_MAPS = partial(fold_for_cpu, feed_forward=PointwiseFeedForward)
"""With the feed-forward of ``fold``: 1 x 1 convolutions, channels first."""
CHUNKS = {"windows": tuning.WINDOWS, "groups": tuning.GROUPS}
VARIANTS: Mapping[str, Variant] = {
    "any": Variant(tuning.fold, lambda model: model, devices=("cpu", *OPENVINO)),
    "tokens gathered": Variant(AS_MAPS, spell_linear, devices=("cpu", *OPENVINO)),
    "feed-forward on tokens": Variant(fold_for_cpu, spell_linear, devices=("cpu", *OPENVINO)),
    "no ArgMax": Variant(fold_for_cpu, spell_linear, OPENVINO_PASSES, OPENVINO),
    "chunks, feed-forward on maps": Variant(partial(AS_MAPS, **CHUNKS), spell_scans),
    "chunks": Variant(partial(fold_for_cpu, **CHUNKS), spell_scans),
    "chunks, attention spelt out": Variant(
        partial(fold_for_cpu, **CHUNKS), lambda model: spell_attention(spell_scans(model))
    ),
    "chunks, norms spelt out": Variant(
        lambda network: spell_norms(fold_for_cpu(network, **CHUNKS)), spell_scans
    ),
    "chunks, biases added": Variant(partial(fold_for_cpu, **CHUNKS), spell_scans, ORT_PASSES),
    "chunks, codes in all of them": Variant(
        partial(fold_for_cpu, **CHUNKS, carries=True),
        lambda model: spell_scans(code_all(model)),
        ORT_PASSES,
    ),
    **{
        f"chunks of {windows} and {groups}": Variant(
            partial(fold_for_cpu, windows=windows, groups=groups, carries=True),
            spell_scans,
            ORT_PASSES,
        )
        for windows, groups in ((1, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32))
    },
}


class SpeltNorm(nn.Module):
    """A LayerNorm without affine part, step by step."""

    def __init__(self, original: nn.LayerNorm) -> None:
        super().__init__()
        self.eps = original.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred * ((centred * centred).mean(-1, keepdim=True) + self.eps).rsqrt()


def spell_norms(folded: ATD) -> ATD:
    """Put ``SpeltNorm`` into every layer, in place."""
    for module in folded.modules():
        if isinstance(module, Layer):
            module.norm1, module.norm2 = SpeltNorm(module.norm1), SpeltNorm(module.norm2)
    return folded


def spell_attention(model: onnx.ModelProto) -> onnx.ModelProto:
    """Attention in the bodies of Scans -> product, sum, softmax, product; in place."""
    shapes = {"apart": [0, 0, 4, -1], "together": [0, 0, -1]}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    _spell_in(model.graph)
    return model


def _spell_in(graph: onnx.GraphProto) -> None:
    """Bodies first: what goes into ``graph`` again is a copy."""
    made: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _spell_in(attribute.g)
        made += _spelt_attention(node) if node.op_type == "Attention" else [node]
    del graph.node[:]
    graph.node.extend(made)


def _spelt_attention(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    made: list[onnx.NodeProto] = []

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{node.output[0]}/{len(made)}"
        made.append(
            helper.make_node(operator, inputs, [output], f"{node.name}/{len(made)}", **attributes)
        )
        return output

    query, key, value = (
        add("Transpose", add("Reshape", tensor, "apart"), perm=order)
        for tensor, order in zip(node.input, ORDERS, strict=False)
    )
    logits = add("MatMul", query, key)
    for added in node.input[3:]:
        logits = add("Add", logits, added)
    heads = add("MatMul", add("Softmax", logits, axis=-1), value)
    add("Reshape", add("Transpose", heads, perm=[0, 2, 1, 3]), "together")
    made[-1].output[0] = node.output[0]
    return made


def code_all(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let all chunks of shifted windows have codes, not only those at the border; in place."""
    coded = INPUTS.index("coded")
    for node in model.graph.node:
        if node.op_type == OPERATOR and len(node.input) > coded:
            node.input[coded] = ""
    return model


@click.group()
def main() -> None:
    """Make and time the variants."""


@main.command()
@reports_errors
def make() -> None:
    """Trace every variant that is not there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    network = build("pp-atd-light", 2)
    for name, variant in VARIANTS.items():
        if _path(name).exists():
            continue
        opset = ATTENTION_OPSET if variant.devices == ("cpu",) else OPSETS[0]
        model = variant.spell(name_nodes(trace_network(variant.fold(network), opset)))
        model = run_passes(model, (*PASSES, *INDEX_PASSES, *variant.passes))
        model = share_weights(model)
        artefact = Artefact(
            *("pp-atd-light", 2, "routed", "fp32", opset, network.weights_sha256, "0.1.0"),
            pure_pass=network.config.pure_pass,
        )
        onnx.save(write_metadata(model, artefact), _path(name))
        click.echo(f"{name}: {len(model.graph.node)} nodes")


@main.command()
@click.option("--runs", default=9, show_default=True)
@reports_errors
def measure(runs: int) -> None:
    """Time the variants of each runtime in turns."""
    crop, found = crop_of_photo(SIZE, CORNER), dict[str, Any]()
    for device in ("cpu", *OPENVINO):
        names = [name for name, variant in VARIANTS.items() if device in variant.devices]
        ups = [Upscaler.open(_path(name), device) for name in names]
        runners = [partial(timed, partial(up.upscale, crop, tiling=WHOLE)) for up in ups]
        timings = [Timing(samples) for samples in in_turns(runners, runs, [2] * len(runners))]
        for up in ups:
            up.close()
        found[device] = {
            name: {
                "milliseconds": asdict(timing.milliseconds),
                "times_as_fast": asdict(timing.ratio(timings[0])),
            }
            for name, timing in zip(names, timings, strict=True)
        }
    record("passes", found)


def _path(name: str) -> Path:
    return FOLDER / f"{name.replace(' ', '_')}.onnx"


if __name__ == "__main__":
    main()
