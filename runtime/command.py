"""What every command shares: errors become one line and an exit code, options are spelt once."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_args

import click

from ppsr.models.errors import NO_MEMORY, PpsrError

from .backend import Device

INTERRUPTED = 130

P = ParamSpec("P")
R = TypeVar("R")

device_option = click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    default="auto",
    show_default=True,
    help="Where to run; auto takes CUDA where it works, else the CPU by onnxruntime.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads on the CPU.  [default: the backend's choice]",
)


def auto_or_number(text: str) -> int | None:
    """Take a whole number, or auto: None. A type for click."""
    if text == "auto":
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise click.BadParameter(f"expected auto or a whole number, got {text!r}")
    return int(text)


def memory_size(text: str) -> int:
    """Take bytes, written like 4G, 1.5G or 512M, in units of 1024. A type for click."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([KMGT])(?:i?B)?", text, re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"expected a size like 4G or 512M, got {text!r}")
    return int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2].upper())))


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the project's exit codes: no traceback for PpsrError, Ctrl-C, lack of memory.

    Goes directly above the function, below click's decorators.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except PpsrError as error:
            code, message = error.exit_code, str(error)
        except MemoryError:
            code, message = PpsrError.exit_code, NO_MEMORY
        except KeyboardInterrupt:
            code, message = INTERRUPTED, "interrupted"
        click.ClickException(message).show()
        raise click.exceptions.Exit(code)

    return wrapper
