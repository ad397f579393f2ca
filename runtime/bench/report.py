"""Everything one run of ppsr-bench has found, and how it is spelt as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ppsr.runtime.sidecar import Size

from .memory import Memory
from .rows import Row, by_size, spelt_psnr, totals
from .shares import Curve, Point
from .stages import Stages
from .timing import Summary

COLUMNS = (
    *("section", "picture", "height", "width", "model", "pure"),
    *("milliseconds", "milliseconds_low", "milliseconds_high", "routing_milliseconds"),
    *("microseconds_per_pixel", "pixels_per_second"),
    *("ratio", "ratio_low", "ratio_high"),
    *("dense_milliseconds", "saving", "saving_low", "saving_high"),
    *("saving_paper", "saving_multiply_adds", "psnr_db"),
)
UNITS = {
    "milliseconds": "the model with its routing; no reading, padding, conversion, writing",
    "low, high": "first and third quartile over the rounds, interpolated",
    "pixels": "of the input; the output has scale x scale as many",
    "ratio": "dense / model, within each round; above 1 the model is faster",
    "saving": "1 - masked / dense, within each round",
    "saving_paper": "of multiply-adds as the papers count them",
    "saving_multiply_adds": "of all multiply-adds that the network does",
    "pure, share": "share of pixels that skip category attention, 0 to 1",
    "psnr_db": "between the model's output and the dense one's, RGB; inf: equal",
    "loaded, peak": "resident memory of a process of its own, bytes, at most",
}


@dataclass(frozen=True)
class Report:
    """What was measured, on what, and how."""

    command: tuple[str, ...]
    """Files by their names, without folders."""
    settings: Mapping[str, Any]
    """Runs, threads, device, machine, versions."""
    models: tuple[Mapping[str, Any], ...]
    """Identities, as ``Model.to_json``; the dense one last, where there is one."""
    against: str | None
    """Name of the dense model."""
    rows: tuple[Row, ...]
    stages: tuple[Stages, ...]
    memory: tuple[Memory, ...]
    curves: tuple[Curve, ...]

    @property
    def sizes(self) -> list[Row]:
        """The pictures of each size together, by model."""
        return by_size(self.rows)

    @property
    def totals(self) -> list[Row]:
        """All pictures together, by model."""
        return totals(self.rows)

    def to_json(self) -> str:
        """Spell all of it as strict JSON, with every round."""
        content = {
            "command": list(self.command),
            **self.settings,
            "models": list(self.models),
            "against": self.against,
            "units": UNITS,
            "rows": [row.to_json() for row in self.rows],
            "sizes": [row.to_json() for row in self.sizes],
            "totals": [row.to_json() for row in self.totals],
            "stages": [one.to_json() for one in self.stages],
            "memory": [one.to_json() for one in self.memory],
            "shares": [curve.to_json() for curve in self.curves],
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Spell rows, sizes and curves as CSV, in full precision; a cell is empty for no value."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._lines())
        return text.getvalue()

    def _lines(self) -> Iterator[dict[str, Any]]:
        for section, rows in (("picture", self.rows), ("size", self.sizes)):
            for row in rows:
                yield {"section": section, **_of_row(row)}
        for curve in self.curves:
            for section, points in (("real", curve.real), ("synthetic", curve.synthetic)):
                for point in points:
                    yield {"section": section, "model": curve.model, **_of_point(point)}


def _of_row(row: Row) -> dict[str, Any]:
    routing = row.routing
    return {
        **_place(row.picture, row.size),
        "model": row.model,
        "pure": row.pure,
        **_summary("milliseconds", row.milliseconds),
        "routing_milliseconds": None if routing is None else routing.median,
        "microseconds_per_pixel": row.microseconds_per_pixel,
        "pixels_per_second": row.pixels_per_second,
        **_summary("ratio", row.ratio),
        "dense_milliseconds": row.dense,
        "psnr_db": spelt_psnr(row.psnr_db),
    }


def _of_point(point: Point) -> dict[str, Any]:
    return {
        **_place(point.picture, point.size),
        "pure": point.share,
        **_summary("milliseconds", point.masked.milliseconds),
        **_summary("ratio", point.ratio),
        "dense_milliseconds": point.dense.milliseconds.median,
        **_summary("saving", point.saving),
        "saving_paper": point.saving_paper,
        "saving_multiply_adds": point.saving_multiply_adds,
    }


def _place(picture: str, size: Size | Sequence[int] | None) -> dict[str, Any]:
    height, width = size or (None, None)
    return {"picture": picture, "height": height, "width": width}


def _summary(name: str, found: Summary | None) -> dict[str, float]:
    if found is None:
        return {}
    return {name: found.median, f"{name}_low": found.low, f"{name}_high": found.high}
