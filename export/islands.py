"""Which parts of ATD-light stay in FP32 in an FP16 export; the registry has other networks'."""

from __future__ import annotations

from ppsr.models.registry import REFINEMENT, SIMILARITY, Island

__all__ = ["CAUTIOUS", "ISLANDS", "Island"]

ISLANDS: tuple[Island, ...] = (SIMILARITY, REFINEMENT)
"""Those of every FP16 export of it."""

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
