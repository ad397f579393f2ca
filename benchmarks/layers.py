"""How many layers TensorRT makes of the routed graph, and which rewrite saves how many.

    python benchmarks/layers.py

Counts the layers of the network as parsed by TensorRT for RTX (no GPU needed), with every rewrite
of ``export/fold.py`` and of graph surgery, and with each of them left out in turn. Writes
``benchmarks/results/layers.json``. Eleven traces: about ten minutes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import click
import onnx

from ppsr.export import fold as folding
from ppsr.export.engine import list_layers
from ppsr.export.engine_surgery import ENGINE_PASSES
from ppsr.export.index_surgery import INDEX_PASSES
from ppsr.export.layers import LayerInfo
from ppsr.export.naming import name_nodes
from ppsr.export.surgery import PASSES, run_passes
from ppsr.export.trace import trace_network
from ppsr.models import build
from ppsr.models.atd import ATD
from ppsr.runtime.command import reports_errors
from ppsr.runtime.files import write_atomically
from ppsr.runtime.versions import installed

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "benchmarks/results/layers.json"
FOLDS = (
    *("fold_norms", "fold_query_scale", "widen_heads", "drop_refinement_bias"),
    *("NormedDictionaryAttention", "pass_value_bias", "carry_projection_biases"),
    "PointwiseFeedForward",
)
EVERY = (*PASSES, *INDEX_PASSES, *ENGINE_PASSES)
OPSET = 20


@click.command()
@reports_errors
def main() -> None:
    """Count, print and write."""
    network = build("pp-atd-light", 2)
    whole = _trace(network, folding.fold)
    layers = _layers(whole, EVERY)
    counts = {"all rewrites": len(layers)}
    kinds = Counter(layer.kind for layer in layers)
    for step in EVERY:
        rest = tuple(other for other in EVERY if other is not step)
        counts[f"without {step.__name__}"] = len(_layers(whole, rest))
    counts["without surgery"] = len(_layers(whole, ()))
    for name in FOLDS:
        with patch.object(folding, name, lambda same, *_: same):
            counts[f"without {name}"] = len(_layers(_trace(network, folding.fold), EVERY))
    counts["without folding"] = len(_layers(_trace(network, lambda same: same), EVERY))
    for name, count in counts.items():
        click.echo(f"{count:6d}  {count - counts['all rewrites']:+6d}  {name}")
    click.echo(", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    content = {
        "model": "pp-atd-light x2 fp32 routed",
        "versions": installed(("ppsr", "torch", "onnx", "tensorrt-rtx")),
        "layers": counts,
        "kinds": dict(kinds.most_common()),
    }
    write_atomically(TARGET, (json.dumps(content, indent=1) + "\n").encode())


def _trace(network: ATD, rewrite: Callable[[ATD], ATD]) -> bytes:
    model = name_nodes(trace_network(rewrite(network), OPSET))
    data: bytes = model.SerializeToString()
    return data


def _layers(traced: bytes, passes: tuple[Callable[..., int], ...]) -> tuple[LayerInfo, ...]:
    return list_layers(run_passes(onnx.ModelProto.FromString(traced), passes), "tensorrt-rtx")


if __name__ == "__main__":
    main()
