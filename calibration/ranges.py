"""The ranges of a network's activations, and the file they are kept in.

A file belongs to one graph: ranges of other weights would clip, and nobody would see why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ppsr.models.errors import UsageError
from ppsr.runtime.files import write_atomically

from .estimators import require_estimator

REMAKE = "collect them again with: ppsr-export --int8 --data DIR"
KEYS = {"graph_sha256": str, "estimator": str, "images": int, "amax": dict}


@dataclass(frozen=True)
class Ranges:
    """What INT8 keeps of each activation. Raises UsageError for values that cannot be one."""

    graph_sha256: str
    """Of the FP32 graph that they were seen in."""
    estimator: str
    """One of ``estimators.ESTIMATORS``."""
    images: int
    """How many pictures they were seen on."""
    amax: Mapping[str, float]
    """Largest absolute value kept, by site (``<layer>/input``, ``<layer>/output``); above 0."""

    def __post_init__(self) -> None:
        require_estimator(self.estimator)
        if self.images < 1:
            raise UsageError(f"expected ranges of at least one picture, got {self.images}")
        for site, amax in self.amax.items():
            if type(amax) not in (int, float) or not 0 < amax < math.inf:
                raise UsageError(f"expected an amax above 0 for {site}, got {amax!r}")

    def require(self, graph_sha256: str) -> None:
        """Raise UsageError unless they are of this graph."""
        if self.graph_sha256 != graph_sha256:
            raise UsageError(
                "the ranges are of another model, scale or weights (expected graph "
                f"{graph_sha256[:12]}, got {self.graph_sha256[:12]}); {REMAKE}"
            )

    def to_text(self) -> str:
        """Spell it as JSON; the same ranges give the same text."""
        content = {**vars(self), "amax": dict(sorted(self.amax.items()))}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_text(cls, text: str, source: str = "the ranges") -> Ranges:
        """Read ``to_text`` back. ``source`` names the file in errors. Raises UsageError."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _foreign(source, "it is no JSON") from error
        if not isinstance(content, dict):
            raise _foreign(source, "it is no object")
        for key, kind in KEYS.items():
            if key not in content:
                raise _foreign(source, f"it lacks {key!r}")
            if type(content[key]) is not kind:
                raise _foreign(source, f"it has a garbled {key!r}")
        if unknown := set(content) - set(KEYS):
            raise _foreign(source, f"it has an unknown key {min(unknown)!r}")
        try:
            return cls(**content)
        except UsageError as error:
            raise _foreign(source, str(error)) from error


def read_ranges(path: Path) -> Ranges:
    """Read a file of ranges. Raises UsageError where it cannot be read, or holds none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the ranges {path}: {error.strerror}") from error
    except ValueError as error:
        raise _foreign(str(path), "it is no UTF-8 text") from error
    return Ranges.from_text(text, str(path))


def write_ranges(path: Path, ranges: Ranges) -> None:
    """Write a file of ranges, all of it or nothing. Raises as ``write_atomically`` does."""
    write_atomically(path, ranges.to_text().encode())


def _foreign(source: str, fault: str) -> UsageError:
    return UsageError(f"{source} is no file of ranges ({fault}); {REMAKE}")
