"""The tables that ppsr-eval prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from .evaluation import Evaluation, Method, Score, gain

Cells = list[str]


def show(evaluation: Evaluation) -> None:
    """Print one table for each set, the methods below."""
    console = Console(markup=False, emoji=False, highlight=False)
    for one in evaluation.sets:
        console.print(_table(evaluation, one.name))
    for letter, method in zip("AB", evaluation.methods, strict=False):
        prefix = f"{letter}: " if len(evaluation.methods) == 2 else ""
        click.echo(prefix + _described(method))


def _table(evaluation: Evaluation, name: str) -> Table:
    pictures, means = evaluation.pictures(name), evaluation.means(name)
    headers, cells = (_alone, _alone_cells) if len(means) == 1 else (_pair, _pair_cells)
    table = Table(
        box=box.SIMPLE,
        title=f"{click.format_filename(name)} x{evaluation.scale}",
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("picture", overflow="fold")
    for header in headers(means):
        table.add_column(header, justify="right", no_wrap=True)
    for rows in pictures:
        path = click.format_filename(rows[0].picture)
        table.add_row(path, *cells([row.score for row in rows], means))
    table.add_section()
    table.add_row(f"mean of {len(pictures)}", *cells(means, means))
    if len(means) == 2:
        values = [mean.psnr_y_unrounded for mean in means]
        more = gain(*means).psnr_y_unrounded
        table.add_row("Y not rounded", *(f"{value:.2f}" for value in values), f"{more:+.3f}")
    return table


def _alone(means: Sequence[Score]) -> Cells:
    pure = [] if means[0].pure is None else ["pure"]
    return ["PSNR Y", "not rounded", "SSIM Y", *pure, "ms"]


def _alone_cells(scores: Sequence[Score], means: Sequence[Score]) -> Cells:
    (score,) = scores
    return [
        f"{score.psnr_y:.2f}",
        f"{score.psnr_y_unrounded:.2f}",
        f"{score.ssim_y:.4f}",
        *_shares(scores, means),
        f"{score.milliseconds:.0f}",
    ]


def _pair(means: Sequence[Score]) -> Cells:
    pure = [f"pure {x}" for x, mean in zip("AB", means, strict=True) if mean.pure is not None]
    return ["PSNR A", "B", "B - A", "SSIM A", "B", "B - A", *pure]


def _pair_cells(scores: Sequence[Score], means: Sequence[Score]) -> Cells:
    first, second = scores
    more = gain(first, second)
    return [
        f"{first.psnr_y:.2f}",
        f"{second.psnr_y:.2f}",
        f"{more.psnr_y:+.3f}",
        f"{first.ssim_y:.4f}",
        f"{second.ssim_y:.4f}",
        f"{more.ssim_y:+.4f}",
        *_shares(scores, means),
    ]


def _shares(scores: Sequence[Score], means: Sequence[Score]) -> Cells:
    """Return the shares of the methods that have one."""
    both = zip(scores, means, strict=True)
    return [f"{100 * (score.pure or 0):.1f} %" for score, mean in both if mean.pure is not None]


def _described(method: Method) -> str:
    known: dict[str, Any] = dict(method.identity)
    if known["weights_sha256"] is None:
        return method.name
    weights = known["weights_sha256"][:12]
    parts = (known["model"], known["runs"], known["precision"], f"weights {weights}")
    return f"{click.format_filename(method.name)}: {', '.join(parts)}, {known['device']}"
