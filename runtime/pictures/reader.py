"""A file that is read here and there."""

from __future__ import annotations

from collections.abc import Callable

Reader = Callable[[int, int], bytes]
"""(offset, length) -> the bytes there, fewer where the file ends."""
