"""What precision an engine has: the layers of its network, with the types of their outputs.

A network is strongly typed: after parsing, the types of its tensors are what runs, GPU or not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ppsr.models.errors import ParityError

from .islands import ISLANDS, Island

COMPUTING = frozenset({"MATRIX_MULTIPLY", "CONVOLUTION", "SOFTMAX", "NORMALIZATION"})
"""Kinds of layers whose precision is asked for; the others move, add or index."""


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a network before TensorRT fuses it with others."""

    name: str
    """Of the ONNX node it was parsed from, perhaps with a number behind; see ``naming``."""
    kind: str
    """As TensorRT calls it: "MATRIX_MULTIPLY"."""
    outputs: tuple[str, ...]
    """Types: "HALF", "FLOAT", "INT32" ..."""


def require_fp16(layers: Sequence[LayerInfo], islands: Sequence[Island] = ISLANDS) -> None:
    """Raise ParityError unless all that computes is FP16 but for ``islands``, which are FP32.

    Every island must have something that computes: one without was renamed.
    """
    empty = {island.name for island in islands}
    for layer in layers:
        if layer.kind not in COMPUTING:
            continue
        island = next((one for one in islands if re.search(one.pattern, layer.name)), None)
        expected = "FLOAT" if island else "HALF"
        empty -= {island.name} if island else set()
        if layer.outputs[0] != expected:
            where = f" (FP32 island {island.name!r})" if island else ""
            raise ParityError(
                f"expected {layer.name}{where} to be {expected}, it is {layer.outputs[0]} in the "
                "engine's network; no engine was written"
            )
    if empty:
        raise ParityError(f"nothing in the engine's network is in the FP32 islands {sorted(empty)}")
    if not any("HALF" in layer.outputs for layer in layers):
        raise ParityError("FP16 was asked for, but nothing in the engine's network is FP16")


def require_int8(layers: Sequence[LayerInfo]) -> None:
    """Raise ParityError unless something is quantised to INT8.

    What multiplies has FLOAT outputs then, too: TensorRT fuses it with what quantises its inputs.
    """
    if not any("INT8" in layer.outputs for layer in layers):
        raise ParityError("INT8 was asked for, but nothing in the engine's network is INT8")


def summary(layers: Sequence[LayerInfo]) -> str:
    """Tell in one line how many layers there are, and what the computing ones compute in."""
    types = Counter(layer.outputs[0] for layer in layers if layer.kind in COMPUTING)
    spelt = ", ".join(f"{count} {kind}" for kind, count in sorted(types.items()))
    quantised = sum(layer.kind == "QUANTIZE" for layer in layers)
    told = f"; {quantised} tensors are quantised" if quantised else ""
    return f"{len(layers)} layers; of those that compute {spelt}{told}"


def to_json(layers: Sequence[LayerInfo], engine: Any) -> str:
    """Spell the list; ``engine`` is what the inspector tells, or why it does not."""
    content = {"network": [asdict(layer) for layer in layers], "engine": engine}
    return json.dumps(content, indent=1) + "\n"
