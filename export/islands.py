"""Which parts of the network stay in FP32 in an FP16 export, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Island:
    """Nodes that stay in FP32: those whose name (see ``naming``) the pattern finds."""

    name: str
    pattern: str
    reason: str


ISLANDS: tuple[Island, ...] = (
    Island(
        "similarity",
        r"attn_atd(\.wq|\.wk)?/",
        "decides categories: a flip regroups whole tokens; 1e-12 underflows in FP16",
    ),
    Island(
        "category logits",
        r"attn_aca\.softmax/",
        "no 1/sqrt(d) and a learnt factor of up to 100",
    ),
    Island("refinement", r"(refine|norm3)/", "weights near 1/n are FP16 subnormals"),
)
