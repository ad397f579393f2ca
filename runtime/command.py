"""What every command shares: errors become one line and an exit code, options are spelt once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from ppsr.models.errors import PpsrError

INTERRUPTED = 130

P = ParamSpec("P")
R = TypeVar("R")

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to run; auto takes CUDA where it works.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads on the CPU.  [default: the backend's choice]",
)


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
            code, message = PpsrError.exit_code, "not enough memory; use a smaller picture"
        except KeyboardInterrupt:
            code, message = INTERRUPTED, "interrupted"
        click.ClickException(message).show()
        raise click.exceptions.Exit(code)

    return wrapper
