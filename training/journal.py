"""The log of a run: one row of CSV after every few steps, and the curve drawn from it."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from ppsr.models.errors import BackendUnavailable, PpsrError
from ppsr.runtime.files import replacing, write_atomically

LOG, CURVE = "log.csv", "curve.png"


@dataclass(frozen=True)
class Row:
    """What happened since the row before. The fields are the columns."""

    step: int
    """Steps done."""
    minutes: float
    """Training time so far, validation and saving included, over all resumed parts."""
    rate: float
    """Learning rate of the last step."""
    loss: float
    """Mean: L1 in [0, 1], and what the network adds to it."""
    images_per_second: float
    waiting: float
    """Share of the time spent waiting for data."""
    psnr_y: float | None
    """Validation of the averaged weights, dB; None: not validated here."""


class Meter:
    """What adds up between two rows. ``loss`` is summed on the device, so that nothing waits."""

    def __init__(self, step: int, seconds: float, waited: float, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device)
        self._step, self._seconds, self._waited = step, seconds, waited

    def row(self, step: int, seconds: float, waited: float, batch: int, rate: float) -> Row:
        """Make the row of what happened since."""
        steps, passed = step - self._step, max(seconds - self._seconds, 1e-9)
        return Row(
            step=step,
            minutes=seconds / 60,
            rate=rate,
            loss=self.loss.item() / steps,
            images_per_second=steps * batch / passed,
            waiting=(waited - self._waited) / passed,
            psnr_y=None,
        )


class Journal:
    """``log.csv`` of a run's folder, appended row by row."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin or go on at ``step``: rows of steps that were lost in a kill are dropped."""
        self._path = folder / LOG
        kept = [row for row in read(self._path) if row.step <= step] if self._path.exists() else []
        lines = [[field.name for field in fields(Row)], *map(_cells, kept)]
        write_atomically(self._path, "".join(",".join(cells) + "\n" for cells in lines).encode())

    def add(self, row: Row) -> None:
        """Append a row. Raises PpsrError where the system refuses."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(",".join(_cells(row)) + "\n")
        except OSError as error:
            raise PpsrError(f"cannot write {self._path}: {error.strerror}") from error


def read(path: Path) -> list[Row]:
    """Read a log back; a row cut short by a kill is left out."""
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            try:
                values = {key: float(cell) if cell else None for key, cell in cells.items()}
                rows.append(Row(**{**values, "step": int(cells["step"])}))  # type: ignore[arg-type]
            except (TypeError, ValueError):
                continue
    return rows


def draw(folder: Path) -> Path:
    """Draw loss and validation PSNR over time into ``curve.png``.

    Raises BackendUnavailable without matplotlib.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise BackendUnavailable(
            "matplotlib is not installed: pip install 'ppsr[train]'"
        ) from error
    rows = read(folder / LOG)
    figure, left = pyplot.subplots(figsize=(7, 4), layout="constrained")
    left.plot([r.minutes for r in rows], [r.loss for r in rows], color="tab:grey", linewidth=0.8)
    left.set(xlabel="minutes", ylabel="L1 loss (grey)")
    seen = [(r.minutes, r.psnr_y) for r in rows if r.psnr_y is not None]
    if seen:
        right = left.twinx()
        right.plot(*zip(*seen, strict=True), "o-", color="tab:blue")
        right.set_ylabel("validation PSNR of Y, dB (blue)")
    with replacing(folder / CURVE) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
    return folder / CURVE


def _cells(row: Row) -> list[str]:
    return ["" if value is None else f"{value:.6g}" for value in asdict(row).values()]
