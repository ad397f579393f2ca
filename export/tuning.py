"""What a graph is tuned for: one network, rewritten and traced as each runtime is fastest at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import onnx

from ppsr.models.network import Network
from ppsr.runtime.artefact import Tuning

from .attention_nodes import spell_linear, spell_scans
from .cpu_layer import fold_for_cpu
from .engine_surgery import ENGINE_PASSES
from .fold import fold
from .index_surgery import INDEX_PASSES
from .naming import name_nodes
from .openvino_surgery import OPENVINO_PASSES
from .ort_surgery import ORT_PASSES
from .surgery import PASSES, run_passes

Stage = tuple[str, Callable[[onnx.ModelProto], onnx.ModelProto]]

WINDOWS, GROUPS = 4, 8
"""Windows of 256 and groups of 128 tokens in a chunk for onnxruntime: 4 and 2 MB of logits."""

SURGERY: tuple[Stage, ...] = (
    ("name the nodes", name_nodes),
    ("graph surgery", partial(run_passes, passes=(*PASSES, *INDEX_PASSES, *ENGINE_PASSES))),
)
"""For any runtime."""


@dataclass(frozen=True)
class Recipe:
    """How a network becomes a graph."""

    fold: Callable[[Network], Network]
    """Before the trace."""
    stages: tuple[Stage, ...]
    """After it."""


RECIPES: Mapping[Tuning, Recipe] = {
    "any": Recipe(fold, SURGERY),
    "onnxruntime": Recipe(
        partial(fold_for_cpu, windows=WINDOWS, groups=GROUPS, carries=True),
        (
            SURGERY[0],
            ("attention in chunks", spell_scans),
            ("graph surgery", partial(run_passes, passes=(*PASSES, *INDEX_PASSES, *ORT_PASSES))),
        ),
    ),
    "openvino": Recipe(
        fold_for_cpu,
        (
            SURGERY[0],
            ("attention for OpenVINO", spell_linear),
            (
                "graph surgery",
                partial(run_passes, passes=(*PASSES, *INDEX_PASSES, *OPENVINO_PASSES)),
            ),
        ),
    ),
}
