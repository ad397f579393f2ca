"""Running an exported model: pictures in, larger pictures out, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .upscaler import Upscaler

__all__ = ["Upscaler"]


def __getattr__(name: str) -> Any:
    if name == "Upscaler":
        from .upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
