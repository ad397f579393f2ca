"""What a search has measured, on the disk after every step, so that a stop loses one step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ppsr.models.errors import UsageError
from ppsr.runtime.files import check_target, sweep, write_atomically

from .scores import Score

FORMAT = "ppsr search journal 1"
COLUMNS = ("psnr_y", "error", "noise", "difference")


class SearchJournal:
    """A JSON file of scores. Those of other networks, ranges or samples lie in it unused."""

    def __init__(self, path: Path | None, identity: str) -> None:
        """Read ``path`` where it exists; None: remember, and write nothing.

        ``identity`` says what the scores are of. Raises UsageError where the file cannot be read or
        written, or is no journal.
        """
        self._path = path
        self._searches: dict[str, dict[str, dict[str, Any]]] = {}
        if path is not None:
            self._searches = read_journal(path)
            sweep(path.parent)
        self._scores = self._searches.setdefault(identity, {})

    def __contains__(self, key: str) -> bool:
        return key in self._scores

    def get(self, key: str, samples: int) -> Score | None:
        """Return what was measured under this key, on so many samples; None: nothing yet."""
        found = self._scores.get(key)
        if found is None:
            return None
        try:
            columns = {name: tuple(map(float, found[name])) for name in COLUMNS}
            flipped = None if found["flipped"] is None else float(found["flipped"])
            if {len(column) for column in columns.values()} != {samples}:
                raise ValueError(key)
            if min(columns["error"]) <= 0:
                raise ValueError(key)
            return Score(**columns, flipped=flipped)
        except (KeyError, TypeError, ValueError) as error:
            raise _garbled(self._path) from error

    def add(self, key: str, score: Score) -> None:
        """Keep a score, and have it on the disk before this returns."""
        self._scores[key] = vars(score)
        if self._path is not None:
            content = {"format": FORMAT, "searches": self._searches}
            text = json.dumps(content, indent=1, allow_nan=False)
            write_atomically(self._path, text.encode())


def read_journal(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Read the scores by search and by key; none where there is no such file yet.

    Raises UsageError where the file cannot be read or written, or is no journal.
    """
    check_target(path)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read the journal {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _garbled(path) from error
    if not (isinstance(content, dict) and content.get("format") == FORMAT):
        raise _garbled(path)
    searches = content.get("searches")
    if not (isinstance(searches, dict) and all(isinstance(s, dict) for s in searches.values())):
        raise _garbled(path)
    return searches


def _garbled(path: Path | None) -> UsageError:
    return UsageError(f"{path} is no journal of a search; remove it, or name another file")
