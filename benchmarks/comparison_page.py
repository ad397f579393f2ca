"""The page ``docs/comparison.md``, from benchmarks/results/comparison.json.

python benchmarks/comparison_page.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from quality_page import PAPER_PIXELS

from ppsr.runtime.command import reports_errors
from ppsr.runtime.files import write_atomically

ROOT = Path(__file__).parents[1]
SOURCE, PAGE = ROOT / "benchmarks/results/comparison.json", ROOT / "docs/comparison.md"
SETS = ("Set5", "Set14", "B100")

PAPER: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "ATD-light": {"Set5": (38.28, 0.9614), "Set14": (34.13, 0.9222), "B100": (32.39, 0.9021)},
    "PP-ATD-light": {"Set5": (38.26, 0.9615), "Set14": (34.17, 0.9222), "B100": (32.38, 0.9021)},
    "CAMixer-ATD-light-0.8": {
        "Set5": (38.23, 0.9613),
        "Set14": (33.92, 0.9211),
        "B100": (32.32, 0.9013),
    },
    "CAMixer-ATD-light-0.5": {
        "Set5": (38.19, 0.9612),
        "Set14": (33.87, 0.9206),
        "B100": (32.31, 0.9011),
    },
}
"""Pure-Pass (arXiv 2510.01997), table 1, x2: PSNR and SSIM of Y."""
PAPER_EXITS = {"learnt": (29.10, 623.51), "uniform": (28.78, 671.78), "random": (28.85, 653.67)}
"""AdaFormer, table 4: PSNR on Test4K x4, G multiply-adds."""


@click.command()
@reports_errors
def main() -> None:
    """Write the page."""
    write_atomically(PAGE, spell(json.loads(SOURCE.read_text())).encode())


def spell(content: Mapping[str, Any]) -> str:
    """The page, from what was measured."""
    rows = {name: row for name, row in content["quality"].items() if name != "bicubic"}
    times = content["times"]
    height, width = times["size"]
    first = next(iter(rows.values()))["training"]
    options, machine, versions = first["options"], times["machine"], times["versions"]
    pixels = first["steps"] * options["batch"] * options["patch"] ** 2
    minutes = ", ".join(f"{name} {row['training']['minutes']:.0f}" for name, row in rows.items())
    return f"""# The papers' comparison, in small

<!-- Made by benchmarks/comparison_page.py from benchmarks/results/comparison.json; do not edit. -->

Networks trained alike from nothing: {first["steps"]} steps of {options["batch"]} patches of
{options["patch"]} x {options["patch"]} pixels, one seed, one order of patches, no pre-trained
weights (the last convolution begins as bicubic interpolation). Minutes, two runs at a time, each on
one core of a CPU that did other work too: {minutes}. The
papers' ATD-light saw {PAPER_PIXELS / pixels:,.0f} times as many pixels: levels cannot be compared
with theirs, the order can be looked at. Files are portable ONNX in FP32 on onnxruntime
{versions["onnxruntime"]}, {machine["cores_allowed"]} cores of an {machine["cpu"]}.

## Dense, Pure-Pass and CAMixer, x2

PSNR of Y in dB and SSIM.

{_quality(content["quality"])}

{_orders(rows)}

Multiply-adds of a picture of 1280 x 720 as the papers count them (CAMixer: with the overhead that
its paper's totals imply, 2,400 a pixel and layer; Pure-Pass: at the share of pure pixels behind
its average) and all that are really done; times of one crop of {height} x {width}, in turns, as
portable files.

{_costs(times["rows"])}
{_exits(content.get("exits"))}
## How it was made

```
export OMP_NUM_THREADS=1  # and --only NAME for each of two at a time
python benchmarks/comparison.py train ../shared/data/train ../shared/data/val
python benchmarks/comparison.py quality ../shared/data/eval --threads 1
python benchmarks/comparison.py exits ../shared/data/eval
python benchmarks/comparison.py times
```
"""


def _quality(rows: Mapping[str, Any]) -> str:
    lines = [f"| | {' | '.join(f'{name}, ours | paper' for name in SETS)} |"]
    lines.append("|---" * (1 + 2 * len(SETS)) + "|")
    for name, row in rows.items():
        cells = [_cell(row["sets"][one], PAPER.get(name, {}).get(one)) for one in SETS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(ours: Mapping[str, float], paper: tuple[float, float] | None) -> str:
    theirs = f"{paper[0]:.2f} / {paper[1]:.4f}" if paper else ""
    return f"{ours['psnr_y']:.2f} / {ours['ssim_y']:.4f} | {theirs}"


def _orders(rows: Mapping[str, Any]) -> str:
    """Say of each set whether our order is the paper's."""
    lines = []
    for one in SETS:
        ours = {name: row["sets"][one]["psnr_y"] for name, row in rows.items()}
        paper = {name: PAPER[name][one][0] for name in rows}
        orders = [sorted(of, key=lambda name, of=of: -of[name]) for of in (ours, paper)]  # type: ignore[misc]
        holds = orders[0] == orders[1]
        spelt = [" > ".join(order) for order in orders]
        told = f"as in the paper, {spelt[0]}" if holds else f"{spelt[0]}; the paper: {spelt[1]}"
        least = min(abs(ours[a] - ours[b]) for a, b in pairwise(orders[0]))
        lines.append(f"- {one}: {told}. Neighbours lie at least {least:.3f} dB apart.")
    both = [row["sets"] for name, row in rows.items() if name.startswith("CAMixer")]
    apart = [abs(both[0][one]["psnr_y"] - both[1][one]["psnr_y"]) for one in SETS]
    return (
        "By PSNR, of one seed each:\n\n" + "\n".join(lines) + "\n\n"
        "The trainings of the two CAMixers differ in the weight of one loss alone, and end "
        f"{min(apart):.2f} to {max(apart):.2f} dB\n"
        "apart: runs as short as these do not tell networks apart by less than that."
    )


def _costs(rows: Mapping[str, Any]) -> str:
    lines = [
        "| | parameters | G, as papers count | G, all | ms | times as fast as dense |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['parameters']:,} | {row['paper_flops'] / 1e9:.2f} "
        f"| {row['multiply_adds'] / 1e9:.2f} | {row['milliseconds']['median']:.0f} "
        f"| {row['times_as_fast']['median']:.2f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def _exits(found: Mapping[str, Any] | None) -> str:
    """The section on AdaFormer, where it was trained."""
    if found is None:
        return ""
    training = found["training"]
    lines = [
        f"\n## AdaFormer, x4: rules of exit\n\n{training['steps']} steps in "
        f"{training['minutes']:.0f} minutes; other rules are applied to the same weights at "
        "evaluation. Uniform: all tokens\nleave after as many blocks as the learnt exit attends to "
        "on average; random: as many tokens and\nwindows as that, at random. Tokens kept by block, "
        "of 1; G: multiply-adds of a picture of\n1280 x 720.\n",
        f"| exit | {' | '.join(SETS)} | tokens kept | G | paper (Test4K): dB, G |",
        "|---" * (4 + len(SETS)) + "|",
    ]
    for name, row in found["rules"].items():
        cells = [f"{row['sets'][one]['psnr_y']:.3f}" for one in SETS]
        kept = _shares(row["tokens"])
        spent = f"{row['multiply_adds'] / 1e9:.2f}"
        paper = "{:.2f}, {:.2f}".format(*PAPER_EXITS[name]) if name in PAPER_EXITS else ""
        lines.append(f"| {name} | {' | '.join([*cells, kept, spent, paper])} |")
    return "\n".join(lines) + "\n"


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.2f}" for share in shares)


if __name__ == "__main__":
    main()
