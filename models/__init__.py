"""The networks (``registry``), their routing, their weights and their cost.

``import ppsr.models`` needs numpy alone; ``build`` needs torch (the extra ``export``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .flops import multiply_adds, paper_flops
from .pure_pass import purity_mask

if TYPE_CHECKING:
    from .factory import build

__all__ = ["build", "multiply_adds", "paper_flops", "purity_mask"]


def __getattr__(name: str) -> Any:
    if name == "build":
        from .factory import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
