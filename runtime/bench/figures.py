"""The curves, as SVG by matplotlib: saving over the share of pure pixels, time over size, stages.

Drawn with two colours that stand for ink and paper; on the page ink is the colour of its text, so
that figures can be read in the light and in the dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .rows import Row
from .shares import Curve, Point
from .stages import STAGES, Stages
from .timing import Summary

INK = "#0b0c0d"
COLOURS = ("#d6006c", "#0a7abf", "#b06000", "#2e8540", "#7a4fbf", "#808080")
"""Each has a contrast of 3 or more with white and with the page's dark."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ppsr",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}


def curve_file(curves: Sequence[Curve]) -> str:
    """Draw latency and saving over the share of pure pixels, as an SVG file on white."""
    return _svg(_draw_curve(curves), transparent=False)


def curve_figure(curves: Sequence[Curve]) -> str:
    """``curve_file`` to be put into a page."""
    return _inline(_svg(_draw_curve(curves), transparent=True), "curve")


def sizes_figure(rows: Sequence[Row]) -> str:
    """Draw the time of a pixel over the pixels of the input, a line for each model.

    rows: of one size each, as ``Report.sizes``.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.4), layout="constrained")
        axes = figure.subplots()
        sizes = {math.prod(row.size): row.size for row in rows if row.size is not None}
        for index, name in enumerate(dict.fromkeys(row.model for row in rows)):
            own = [row for row in rows if row.model == name and row.size is not None]
            places = [math.prod(row.size or ()) for row in own]
            spans = [_scaled(row.milliseconds, 1000 / row.pixels) for row in own]
            _bars(axes, places, spans, COLOURS[index % len(COLOURS)], label=name, fmt="o-")
        axes.set(ylabel="µs per pixel", xscale="log")
        axes.set_xticks([], minor=True)
        axes.set_xticks(list(sizes), [f"{width}x{height}" for height, width in sizes.values()])
        axes.set_ylim(bottom=0)
        _finish(axes)
        figure.legend(loc="outside upper left", frameon=False, fontsize=9)
    return _inline(_svg(figure, transparent=True), "sizes")


def stages_figure(stages: Sequence[Stages]) -> str:
    """Draw the medians of the stages as bars, one model above the other."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.2 + 0.5 * len(stages)), layout="constrained")
        axes = figure.subplots()
        names = [one.model for one in stages]
        left = [0.0] * len(stages)
        for index, stage in enumerate(STAGES):
            widths = [found.median if (found := one.of(stage)) else 0.0 for one in stages]
            axes.barh(names, widths, left=left, color=COLOURS[index], label=stage, height=0.6)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set(xlabel="ms, from file to file")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=len(STAGES), frameon=False, fontsize=9)
    return _inline(_svg(figure, transparent=True), "stages")


def _draw_curve(curves: Sequence[Curve]) -> Figure:
    """Time above, saving below: made masks with their line, real crops, what is saved on paper."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 6.5), layout="constrained")
        times, savings = figure.subplots(2, 1, sharex=True)
        for index, curve in enumerate(curves):
            colour = COLOURS[2 * index % len(COLOURS)]
            name = f"{curve.model}, " if len(curves) > 1 else ""
            _draw_times(times, curve, name, colour, COLOURS[(2 * index + 1) % len(COLOURS)])
            _draw_savings(savings, curve, name, colour)
        savings.axhline(0, color=INK, linewidth=0.8)
        times.set(ylabel="ms")
        times.set_ylim(bottom=0)
        savings.set(xlabel="pure pixels, %", ylabel="saving against dense, %", xlim=(-3, 103))
        for axes in (times, savings):
            _finish(axes)
            axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_times(axes: Any, curve: Curve, name: str, colour: str, other: str) -> None:
    for points, mark, kind in ((curve.synthetic, "o", "made masks"), (curve.real, "D", "photos")):
        if points:
            shares = _shares(points)
            own = [point.masked.milliseconds for point in points]
            dense = [point.dense.milliseconds for point in points]
            _bars(axes, shares, own, colour, label=f"{name}masked, {kind}", fmt=mark)
            _bars(axes, shares, dense, other, label=f"{name}dense, {kind}", fmt=mark)


def _draw_savings(axes: Any, curve: Curve, name: str, colour: str) -> None:
    for points, mark, kind in ((curve.synthetic, "o", "made masks"), (curve.real, "D", "photos")):
        if points:
            spans = [_scaled(point.saving, 100) for point in points]
            _bars(axes, _shares(points), spans, colour, label=f"{name}measured, {kind}", fmt=mark)
    on_paper = sorted(curve.synthetic or curve.real, key=lambda point: point.share)
    shares = _shares(on_paper)
    style = {"color": INK, "linewidth": 1}
    counted = [100 * point.saving_multiply_adds for point in on_paper]
    papers = [100 * point.saving_paper for point in on_paper]
    axes.plot(shares, counted, "--", label=f"{name}multiply-adds", **style)
    axes.plot(shares, papers, ":", label=f"{name}multiply-adds, paper's count", **style)
    found = curve.break_even
    if found is not None:
        ends = [100 * found.intercept, 100 * (found.intercept + found.slope)]
        axes.plot([0, 100], ends, color=colour, linewidth=1.2, label=f"{name}line of made masks")
        if found.share is not None:
            axes.axvline(100 * found.share, color=colour, linewidth=0.8, linestyle="-.")
            text = f" break-even {100 * found.share:.1f} %"
            where = axes.get_xaxis_transform()
            axes.text(100 * found.share, 0.02, text, color=colour, transform=where)


def _bars(
    axes: Any, places: Sequence[float], spans: Sequence[Summary], colour: str, label: str, fmt: str
) -> None:
    """Draw medians with bars from quartile to quartile; diamonds are left hollow."""
    values = [span.median for span in spans]
    down = [span.median - span.low for span in spans]
    up = [span.high - span.median for span in spans]
    face = "none" if fmt == "D" else colour
    axes.errorbar(
        places, values, yerr=[down, up], color=colour, fmt=fmt, label=label, capsize=2,
        markersize=4.5, markerfacecolor=face, linewidth=1,
    )  # fmt: skip


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#808080", alpha=0.25, linewidth=0.6)


def _shares(points: Sequence[Point]) -> list[float]:
    return [100 * point.share for point in points]


def _scaled(span: Summary, by: float) -> Summary:
    return Summary(by * span.median, by * span.low, by * span.high)


def _svg(figure: Figure, *, transparent: bool) -> str:
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=transparent)
    return text.getvalue()


def _inline(svg: str, prefix: str) -> str:
    """Make a part of an HTML page: no addresses of other documents, names that are used once."""
    inner = svg[svg.index("<svg") :]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, flags=re.DOTALL)
    inner = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", inner).replace("xlink:href", "href")
    inner = re.sub(r'\sid="', f' id="{prefix}-', inner)
    inner = inner.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    return inner.replace(INK, "currentColor")
