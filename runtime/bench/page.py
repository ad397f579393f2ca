"""The report as one page: HTML that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import jinja2

from .figures import curve_figure, sizes_figure, stages_figure
from .report import UNITS, Report
from .show import Shown
from .tables import all_tables, conclusions, model_lines

TEMPLATE = "page.html.j2"


def page(report: Report, shown: Sequence[Shown]) -> str:
    """Make the page of everything that was measured, with the pictures ``shown``."""
    source = files("ppsr.runtime.bench").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    figures = []
    if report.curves:
        figures.append(
            (
                "Time and saving over the share of pure pixels. Dots: masks made for the purpose, "
                "on one picture; diamonds: crops of the pictures. Bars: quartiles over the rounds.",
                curve_figure(report.curves),
            )
        )
    if len({row.size for row in report.sizes}) > 1:
        figures.append(("Time of a pixel of the input, over sizes.", sizes_figure(report.sizes)))
    if report.stages:
        figures.append(("One file, stage after stage.", stages_figure(report.stages)))
    return environment.from_string(source).render(
        report=report,
        settings=report.settings,
        conclusions=conclusions(report),
        models=model_lines(report),
        tables=all_tables(report),
        figures=figures,
        shown=shown,
        units=UNITS,
    )
