"""TensorRT's messages: nothing is printed, the first error is kept for one line of our own."""

from __future__ import annotations

from typing import Any


def make_logger(trt: Any) -> Any:
    """Return an ``ILogger`` whose ``said`` is the first error since it was last set to ""."""

    class Log(trt.ILogger):  # type: ignore[misc]  # The module is only known now.
        def __init__(self) -> None:
            super().__init__()
            self.said = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and not self.said:
                self.said = first_line(message)

    return Log()


def first_line(message: object) -> str:
    """Shorten to what a user can read."""
    lines = str(message).strip().splitlines() or [type(message).__name__]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:197] + "..."
