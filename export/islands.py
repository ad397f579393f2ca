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
        r"attn_atd(\.(wq|wk|norm))?/",
        "decides categories: a flip regroups whole tokens",
    ),
    Island("refinement", r"(refine|norm3)/", "weights near 1/n are FP16 subnormals"),
)
"""Those of every FP16 export."""

CAUTIOUS: tuple[Island, ...] = (
    *ISLANDS,
    Island(
        "category logits",
        r"attn_aca\.softmax/",
        "no 1/sqrt(d) and a learnt factor of up to 100",
    ),
)
"""With the logits of AC-MSA too. ``benchmarks/precision.py`` measures what that is worth: not what
it costs, since an engine may run AC-MSA's product, softmax and product as one kernel in FP16."""
