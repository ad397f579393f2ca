"""What is told of a batch: a line for each picture, for people or for machines, and a bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ppsr.models.errors import BatchError, PpsrError

from .inputs import STREAM
from .jobs import Job
from .pipeline import Outcome

Style = Literal["people", "machines", "nobody"]
NAMED = 20
"""Failed pictures that the summary names."""


class Report:
    """Tells of each picture as it is done: on standard output, failures on standard error.

    A context manager: the bar stands on standard error while it is open, if that is a terminal.
    ``about``: what a line for people ends with.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        style: Style,
        about: str = "",
        *,
        keep_going: bool = False,
        bar: bool = True,
        console: Console | None = None,
    ) -> None:
        self._style, self._about, self._many = style, about, len(jobs) > 1
        self._keep_going = keep_going
        self._failed: list[Outcome] = []
        self._number = len(jobs)
        self._through: set[Job] = set()
        self._console = console or Console(stderr=True, markup=False, emoji=False, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            *(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
        )
        self._bar = Progress(
            *columns,
            console=self._console,
            transient=True,
            disable=not (bar and self._console.is_terminal),
            redirect_stdout=False,
            redirect_stderr=False,
        )
        todo = sum(job.skip is None for job in jobs)
        self._task = self._bar.add_task("reading", total=todo)

    def __enter__(self) -> Report:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._bar.stop()

    def advance(self, job: Job, share: float) -> None:
        """Move the bar: so much of a picture, or of those that wait to be written, is done."""
        name = click.format_filename(job.source.below)
        if share == 1:
            self._through.add(job)
            share = 0
        self._bar.update(self._task, completed=len(self._through) + share, description=name)

    def tell(self, outcome: Outcome) -> None:
        """Tell what became of one picture."""
        if outcome.status == "failed":
            self._failed.append(outcome)
            self.advance(outcome.job, 1)
        if self._style == "machines":
            self._say(to_json(outcome))
        elif outcome.status == "failed":
            if self._keep_going:  # Else it is the last one, and what the command ends with.
                self._say(f"failed: {self._reason(outcome)}", error=True)
        elif self._style == "people":
            self._say(to_line(outcome, self._about))

    def conclude(self) -> None:
        """Raise what ended the batch, or a BatchError that names what failed."""
        if not self._failed:
            return
        if self._keep_going:
            names = [_name(outcome.job) for outcome in self._failed]
            more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
            raise BatchError(
                f"{len(names)} of {self._number} failed: {', '.join(names[:NAMED])}{more}"
            )
        (outcome,) = self._failed
        assert outcome.error is not None
        raise type(outcome.error)(self._reason(outcome)) from outcome.error

    def _reason(self, outcome: Outcome) -> str:
        """The error, with the picture's name where there are several and it does not say it."""
        message, name = str(outcome.error), _name(outcome.job)
        return message if name in message or not self._many else f"{name}: {message}"

    def _say(self, line: str, *, error: bool = False) -> None:
        if self._bar.disable or not (error or sys.stdout.isatty()):
            try:
                click.echo(line, err=error)
            except BrokenPipeError:
                raise  # Nobody reads on: click ends the command without a word.
            except OSError as reason:
                raise PpsrError(f"cannot write to standard output: {reason.strerror}") from reason
        else:  # Above the bar, which is on the same terminal.
            self._bar.console.print(line, soft_wrap=True)


def to_line(outcome: Outcome, about: str) -> str:
    """Tell people of a picture that did not fail."""
    job = outcome.job
    name = click.format_filename(job.source.below)
    if outcome.input_size is None or outcome.output_size is None:
        return " · ".join([f"{name} skipped", *outcome.notes])
    output = STREAM if job.output is None else click.format_filename(job.output, shorten=True)
    before, after = ("{} x {}".format(*size) for size in (outcome.input_size, outcome.output_size))
    tiles = outcome.tiles or 1
    parts = [
        f"{name} {before} -> {output} {after}",
        *([] if outcome.pure is None else [f"{100 * outcome.pure:.1f} % pure"]),
        *([] if outcome.kept is None else [_kept(outcome.kept)]),
        *([f"{tiles} tiles"] if tiles > 1 else []),
        f"{outcome.milliseconds:.0f} ms",
        about,
        *outcome.notes,
    ]
    return " · ".join(part for part in parts if part)


def to_json(outcome: Outcome) -> str:
    """Tell machines: one object on one line. Sizes are [height, width]."""
    job = outcome.job

    def path(value: object) -> str | None:
        return None if value is None else str(value)

    content: dict[str, Any] = {
        "input": path(job.source.path) or STREAM,
        "output": path(job.output) or STREAM,
        "mask": path(job.mask),
        "compare": path(job.compare),
        "status": outcome.status,
        "error": path(outcome.error),
        "input_size": outcome.input_size,
        "output_size": outcome.output_size,
        "pure": outcome.pure,
        "kept": outcome.kept,
        "milliseconds": outcome.milliseconds,
        "tiles": outcome.tiles,
        "notes": outcome.notes,
    }
    return json.dumps(content, allow_nan=False)


def _kept(shares: Sequence[float]) -> str:
    return "kept " + ", ".join(f"{100 * share:.0f}" for share in shares) + " %"


def _name(job: Job) -> str:
    return click.format_filename(job.source.name)
