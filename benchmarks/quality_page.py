"""The page ``docs/quality.md``: figures from JSON beside those of the papers."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

from ship import RUNS, records

from ppsr.runtime.files import replacing, write_atomically

Results = dict[tuple[int, str], dict[str, Any]]

PAPER = {
    # Pure-Pass (arXiv 2510.01997), table 1: PSNR and SSIM of Y.
    ("ATD-light", 2): {"Set5": (38.28, 0.9614), "Set14": (34.13, 0.9222), "B100": (32.39, 0.9021)},
    ("ATD-light", 3): {"Set5": (34.74, 0.9300), "Set14": (30.68, 0.8484), "B100": (29.31, 0.8107)},
    ("ATD-light", 4): {"Set5": (32.58, 0.8992), "Set14": (28.87, 0.7884), "B100": (27.78, 0.7438)},
    ("PP-ATD-light", 2): {
        "Set5": (38.26, 0.9615),
        "Set14": (34.17, 0.9222),
        "B100": (32.38, 0.9021),
    },
    ("PP-ATD-light", 3): {
        "Set5": (34.70, 0.9296),
        "Set14": (30.64, 0.8481),
        "B100": (29.31, 0.8108),
    },
    ("PP-ATD-light", 4): {
        "Set5": (32.57, 0.8991),
        "Set14": (28.91, 0.7886),
        "B100": (27.78, 0.7434),
    },
}
PAPER_PIXELS = 500_000 * 32 * 64**2
"""Low-resolution pixels that ATD-light x2 was trained on (official options, 101)."""

INTRODUCTION = """\
# What the shipped weights reach

Made by `python benchmarks/quality.py page` from the JSON in `benchmarks/results`; do not edit.

PSNR (dB) and SSIM of the luma, as the papers measure them and as `ppsr-eval` does: low resolution
by MATLAB's bicubic imresize, luma rounded, a border of `scale` pixels left out, grey pictures
expanded to RGB. The papers' code seems to leave the luma unrounded, which gives a little more;
that figure stands in brackets. The network ran in FP32 in torch.
"""


def write(target: Path, results: Results) -> None:
    """Write the page of the results that are there."""
    parts = [INTRODUCTION, _quality(results), _mask(results), _ablations(results), _training()]
    write_atomically(target, ("\n".join(parts)).encode())


def _quality(results: Results) -> str:
    rows = []
    for (scale, name), result in results.items():
        scores = _scores(result)
        ours = scores["mask"]
        paper = PAPER["PP-ATD-light", scale][name]
        rows.append(
            [
                f"x{scale}",
                name,
                _both(scores["bicubic"]),
                f"**{ours['psnr_y']:.2f}** ({ours['psnr_y_unrounded']:.2f}) / {ours['ssim_y']:.4f}",
                _both(scores["no mask"]),
                "{:.2f} / {:.4f}".format(*paper),
                "{:.2f} / {:.4f}".format(*PAPER["ATD-light", scale][name]),
                f"{ours['psnr_y_unrounded'] - paper[0]:+.2f}",
            ]
        )
    head = (
        *("scale", "set", "bicubic", "PP-ATD-light, ours", "ATD-light, ours"),
        *("PP-ATD-light, paper", "ATD-light, paper", "ours - paper (unrounded)"),
    )
    return "## Beside the papers\n\n" + _table(head, rows)


def _mask(results: Results) -> str:
    rows = []
    for (scale, name), result in results.items():
        costs = [
            picture["scores"]["no mask"]["psnr_y"] - picture["scores"]["mask"]["psnr_y"]
            for picture in result["sets"][0]["rows"]
        ]
        ours = _scores(result)["mask"]
        rows.append(
            [
                *(f"x{scale}", name, f"{100 * ours['pure']:.1f} %"),
                *(f"{sum(costs) / len(costs):+.3f}", f"{max(costs):+.3f}", f"{min(costs):+.3f}"),
            ]
        )
    head = ("scale", "set", "pure pixels", "cost, mean", "highest", "lowest")
    return (
        "## What the mask costs\n\nThe same weights without the mask minus with it, dB; above 0 "
        "the mask costs quality.\n\n" + _table(head, rows)
    )


def _ablations(results: Results) -> str:
    rows = []
    for (scale, name), result in results.items():
        scores = _scores(result)
        full = scores["mask"]["psnr_y"]
        rows.append(
            [
                *(f"x{scale}", name, f"{full:.3f}"),
                f"{100 * scores['mask']['pure']:.1f} %",
                f"{scores['no shift']['psnr_y'] - full:+.3f}",
                f"{100 * scores['no shift']['pure']:.1f} %",
                f"{scores['no compensation']['psnr_y'] - full:+.3f}",
            ]
        )
    head = (
        *("scale", "set", "mask", "pure"),
        *("no cross-shift fusion", "pure", "no compensation"),
    )
    return (
        "## The paper's ablations\n\nSwitched off on the weights that were trained with both; the "
        "paper trains each anew and reports Urban100 and Manga109: 31.71 % pure without fusion, "
        "38.89 % with it at the same PSNR; 0.06 dB lost without compensation.\n\n"
        + _table(head, rows)
    )


def _training() -> str:
    rows, pixels = [], 0
    for record in records():
        recipe = record["recipe"]
        seen = recipe["step"] * recipe["batch"] * recipe["patch"] ** 2
        pixels += seen * record["name"].startswith("x2")
        rows.append(
            [
                record["name"],
                recipe["init"],
                f"{recipe['step']:,}",
                f"{recipe['minutes']:.0f}",
                f"{recipe['batch']} x {recipe['patch']}²",
                recipe["optimiser"],
                f"{recipe['rate']:g}",
                recipe["hardware"],
                *(f"{record['psnr_y'][name]:.2f}" for name in ("Set5", "B100")),
            ]
        )
    head = (
        *("run", "from", "steps", "minutes", "patches", "optimiser", "rate", "on"),
        *("Set5", "B100"),
    )
    return f"""\
## How they were trained, and what remains

![Validation PSNR over training time](training.svg)

{_table(head, rows)}
x2_0 are the weights the project began with, made before `ppsr-train`. A later run starts from the
shipped weights before it ("default"), the first ones of x3 and x4 from the last run of x2 with its
last convolution interpolated, all on the pictures named in
[the model card](../models/MODEL_CARD.md). It is shipped only if it is better on Set5 and B100.

{_gains()}What remains to the paper is training: the x2 runs have seen {pixels / 1e6:,.0f} million
low-resolution pixels, {100 * pixels / PAPER_PIXELS:.2f} % of the paper's
{PAPER_PIXELS / 1e9:.0f} billion (500,000 steps of 32 patches of 64 x 64), and 471 crops of
512 x 512 instead of the 800 larger pictures of DIV2K. The network is the paper's, to 1e-9
(`tests/models/test_golden.py`).
"""


def _gains() -> str:
    """What each further run of x2 brought on Set5, and took."""
    runs = [record for record in records() if record["name"].startswith("x2")]
    gains = [
        f"{new['psnr_y']['Set5'] - old['psnr_y']['Set5']:+.2f} dB in "
        f"{new['recipe']['minutes']:.0f} minutes"
        for old, new in pairwise(runs)
    ]
    return (
        f"On Set5 the further x2 runs brought {', then '.join(gains)}:\nanother run of the same "
        "length on this hardware can be expected to bring less than the last one.\n\n"
    )


def curve(target: Path) -> str:
    """Draw validation PSNR over the minutes of all x2 runs, one after the other."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ppsr"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    for scale in (2, 3, 4):
        before = 0.0
        for path in sorted(RUNS.glob(f"x{scale}_*.csv")):
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["psnr_y"]]
            minutes = [before + float(row["minutes"]) for row in rows]
            axes.plot(minutes, [float(row["psnr_y"]) for row in rows], "o-", label=path.stem)
            before = minutes[-1]
    axes.set(xlabel="minutes of training, run after run", ylabel="validation PSNR of Y, dB")
    if axes.lines:
        axes.legend()
    with replacing(target) as temporary:
        figure.savefig(temporary, metadata={"Date": None})
    pyplot.close(figure)
    return f"{target.parent.name}/{target.name}"


def _scores(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = result["sets"][0]["mean"]["scores"]
    return scores


def _both(score: dict[str, float]) -> str:
    return f"{score['psnr_y']:.2f} / {score['ssim_y']:.4f}"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    raise SystemExit("run benchmarks/quality.py page")
