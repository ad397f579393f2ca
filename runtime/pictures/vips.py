"""libvips as this package needs it: it keeps nothing, prints nothing, and says what went wrong."""

from __future__ import annotations

import atexit
import re
from typing import Any

import pyvips

from ppsr.models.errors import PpsrError

_SYSTEM = re.compile(r"(?:unix|system|windows) error: (?!Unknown error)(.+)")


def _text(data: Any) -> str:
    """Return a string of C as one of Python: damaged files bring in what is no UTF-8."""
    if data == pyvips.ffi.NULL:
        return "NULL"
    found = pyvips.ffi.string(data)
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


# pyvips would raise UnicodeDecodeError in place of its own error, or print it with a traceback.
pyvips._to_string = pyvips.error._to_string = _text

# libvips would keep what it has opened, and its temporary file, after it is closed.
pyvips.cache_set_max(0)

# Of libvips itself pyvips sends the warnings to `logging`; those of GObject would be printed.
_DOMAIN = b"GLib-GObject"
_handler = pyvips.glib_lib.g_log_set_handler(
    _DOMAIN,
    pyvips.GLogLevelFlags.LEVEL_CRITICAL | pyvips.GLogLevelFlags.LEVEL_WARNING,
    pyvips._log_handler_cb,
    pyvips.ffi.NULL,
)
atexit.register(pyvips.glib_lib.g_log_remove_handler, _DOMAIN, _handler)


def reason(error: pyvips.Error) -> str:
    """Return the first of the lines that libvips collected and that says something."""
    lines = [line for line in _lines(error) if line and "bad seek" not in line]
    return " ".join(lines[0].split()) if lines else "unknown reason"


def raise_if_system(error: pyvips.Error, doing: str) -> None:
    """Raise PpsrError where it was the system that refused, not the picture."""
    for line in _lines(error):
        said = _SYSTEM.match(line)
        if said:
            raise PpsrError(f"{doing}: {said[1]}") from error
        if "out of memory" in line:
            raise PpsrError(f"{doing}: out of memory") from error


def _lines(error: pyvips.Error) -> list[str]:
    text = str(getattr(error, "detail", error))
    printable = "".join(letter if letter.isprintable() else "\n" for letter in text)
    return [line.strip() for line in printable.split("\n")]
