"""What ppsr-bench prints, as tables of text: the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from ppsr.runtime.sidecar import Size

from .memory import Memory
from .report import Report
from .rows import Row
from .shares import Curve
from .stages import STAGES, Stages
from .timing import Summary

FEW = 3
"""Fewer rounds have no quartiles worth the name."""


@dataclass(frozen=True)
class Table:
    """Cells of text."""

    title: str
    head: tuple[str, ...]
    """The first columns are text, those from ``text`` on are numbers."""
    rows: tuple[tuple[str, ...], ...]
    text: int
    note: str = ""


def all_tables(report: Report) -> list[Table]:
    """Return the tables of what was measured, in the order they are read."""
    letters = letters_of(report)
    tables = [
        _pictures(report.rows, letters),
        _sizes([*report.sizes, *report.totals], letters),
        _stages(report.stages, letters),
        _memory(report.memory, letters),
        *(_shares(curve, letters) for curve in report.curves),
    ]
    return [table for table in tables if table.rows]


def letters_of(report: Report) -> dict[str, str]:
    """Return a letter for each model, in their order: names are too long for tables."""
    names = [one["name"] for one in report.models]
    return {name: chr(ord("A") + at) if at < 26 else str(at) for at, name in enumerate(names)}


def print_tables(report: Report) -> None:
    """Print all tables, what the models are, and the conclusions last."""
    console = Console(markup=False, emoji=False, highlight=False)
    for table in all_tables(report):
        click.echo(table.title)
        console.print(_rich(table))
        if table.note:
            click.echo(table.note + "\n")
    for line in model_lines(report):
        click.echo(line)
    for line in conclusions(report):
        click.echo(line)


def model_lines(report: Report) -> list[str]:
    """Say what each model is, a line each."""
    letters = letters_of(report)
    return [
        f"{letters[one['name']]}: {one['name']}, "
        f"{one['model']} x{one['scale']} {one['precision']}, "
        f"{one['backend']} on {one['device']}, weights {one['weights_sha256'][:12]}"
        + (" (dense)" if one["name"] == report.against else "")
        for one in report.models
    ]


def conclusions(report: Report) -> list[str]:
    """Say what the curves and ratios amount to, a sentence each."""
    letters = letters_of(report)
    lines = []
    for curve in report.curves:
        if curve.break_even is not None:
            of = f"{letters[curve.model]}: " if len(report.curves) > 1 else ""
            lines.append(of + curve.break_even.sentence)
        if curve.unsteady is not None:
            lines.append(curve.unsteady)
    compared = [row for row in report.totals if row.ratio is not None]
    for row in compared:
        assert row.ratio is not None
        name = "masked" if len(compared) == 1 else letters[row.model]
        few = "; too few runs to be sure" if report.settings["runs"] < FEW else ""
        lines.append(conclusion(row.ratio, name, row.pure) + few)
    return lines


def conclusion(ratio: Summary, name: str, pure: float | None = None) -> str:
    """Say which is faster, by how much, and at which share; also where the rounds do not agree."""
    faster, slower = (name, "dense") if ratio.median >= 1 else ("dense", name)
    turned = (ratio.median, ratio.low, ratio.high)
    if ratio.median < 1:
        turned = (1 / ratio.median, 1 / ratio.high, 1 / ratio.low)
    median, low, high = turned
    where = "" if pure is None else f" where {_percent(pure)} of the pixels are pure"
    doubt = "" if low > 1 else ": these runs do not tell them apart"
    return (
        f"{faster} is {median:.2f} times as fast as {slower} "
        f"(quartiles {low:.2f} to {high:.2f}){where}{doubt}"
    )


def _pictures(rows: Sequence[Row], letters: Mapping[str, str]) -> Table:
    head = ("picture", "model", "size", "pure", "ms", "quartiles", "ratio", "PSNR")
    return Table("Pictures", head, tuple(_cells(row, letters[row.model]) for row in rows), 2)


def _cells(row: Row, letter: str) -> tuple[str, ...]:
    return (
        *(row.picture, letter, _size(row.size), _percent(row.pure)),
        *(_ms(row.milliseconds.median), _range(row.milliseconds, _ms)),
        "" if row.ratio is None else f"{row.ratio.median:.3f}",
        "" if row.psnr_db is None else f"{row.psnr_db:.2f} dB",
    )


def _sizes(rows: Sequence[Row], letters: Mapping[str, str]) -> Table:
    head = ("size", "model", "pure", "ms", "µs/pixel", "pixels/s", "ratio", "quartiles")
    cells = tuple(
        (
            *(_size(row.size) or "all", letters[row.model], _percent(row.pure)),
            _ms(row.milliseconds.median),
            *(f"{row.microseconds_per_pixel:.2f}", f"{row.pixels_per_second:,.0f}"),
            "" if row.ratio is None else _thousandths(row.ratio.median),
            "" if row.ratio is None else _range(row.ratio, _thousandths),
        )
        for row in dict.fromkeys(rows)
    )
    return Table("Sizes, the pictures of each added up", head, cells, 2)


def _stages(stages: Sequence[Stages], letters: Mapping[str, str]) -> Table:
    cells = tuple((letters[one.model], *map(_stage, map(one.of, STAGES)), _ms(one.total.median))
                  for one in stages)  # fmt: skip
    title = "" if not stages else f"Stages, ms ({stages[0].picture}, {_size(stages[0].size)})"
    return Table(title, ("model", *STAGES, "total"), cells, 1)


def _stage(found: Summary | None) -> str:
    return "in network" if found is None else _ms(found.median)


def _memory(memory: Sequence[Memory], letters: Mapping[str, str]) -> Table:
    cells = tuple((letters[one.model], _mb(one.loaded), _mb(one.peak)) for one in memory)
    title = "" if not memory else f"Host memory, MB ({memory[0].picture}, {_size(memory[0].size)})"
    return Table(title, ("model", "loaded", "peak"), cells, 1)


def _shares(curve: Curve, letters: Mapping[str, str]) -> Table:
    head = (
        *("mask", "pure", "masked", "dense", "ratio"),
        *("saving", "quartiles", "counted", "paper"),
    )
    points = [("real", p) for p in curve.real] + [("made", p) for p in curve.synthetic]
    cells = tuple(
        (
            *(kind, _percent(point.share), _ms(point.masked.milliseconds.median)),
            *(_ms(point.dense.milliseconds.median), f"{point.ratio.median:.3f}"),
            *(_percent(point.saving.median), _range(point.saving, _hundredths)),
            *(_percent(point.saving_multiply_adds), _percent(point.saving_paper)),
        )
        for kind, point in points
    )
    size = (curve.real or curve.synthetic)[0].size
    note = (
        "counted, paper: the saving of multiply-adds, of all and as the papers count them. "
        "real: crops of the pictures; made: one of them with a made mask."
    )
    if not curve.synthetic:
        note += " No mask could be made: the model finds its own; take one of --form routed."
    title = f"Over the share of pure pixels: {letters[curve.model]}, {_size(size)}, ms"
    return Table(title, head, cells, 1, note)


def _rich(table: Table) -> RichTable:
    made = RichTable(
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    for index, name in enumerate(table.head):
        if index == 0:
            made.add_column(name, overflow="fold", min_width=len(name))
        elif index < table.text:
            made.add_column(name, no_wrap=True)
        else:
            made.add_column(name, justify="right", no_wrap=True)
    for row in table.rows:
        made.add_row(*row)
    return made


def _size(size: Size | None) -> str:
    return "" if size is None else f"{size[1]}x{size[0]}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _thousandths(value: float) -> str:
    return f"{value:.3f}"


def _hundredths(value: float) -> str:
    return f"{100 * value:.1f}"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _mb(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1e6:.0f}"


def _range(found: Summary, spell: Callable[[float], str]) -> str:
    return f"{spell(found.low)} to {spell(found.high)}"
