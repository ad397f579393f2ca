"""The page docs/int8.md and its plot, from the figures of int8.py.

python benchmarks/int8_page.py
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppsr.models.registry import MODELS
from ppsr.runtime.files import replacing, write_atomically

ROOT = Path(__file__).parents[1]
PAGE, PLOT = ROOT / "docs/int8.md", ROOT / "docs/int8.svg"
TARGET = ROOT / "benchmarks/results/int8.json"


def write() -> None:
    """Write both."""
    content = json.loads(TARGET.read_text())
    write_atomically(PAGE, spell(content).encode())
    with replacing(PLOT) as path:
        draw(content["search"]["groups"], path)


def spell(content: Mapping[str, Any]) -> str:
    """The page, from what was measured."""
    found, measured, timed = content["search"], content["measure"], content["times"]
    rows, best = measured["rows"], found["best"]
    height, width = timed["size"]
    moved = sum(one["chosen"] for one in found["groups"])
    ends = " and ".join(f"`{name}`" for name in MODELS["pp-atd-light"].ends)
    cores, cpu = (timed["machine"][key] for key in ("cores_allowed", "cpu"))
    what = f"""
        x2, shipped weights (`{measured["weights_sha256"][:12]}`), onnxruntime
        {measured["versions"]["onnxruntime"]} on {cores} cores of an {cpu}. INT8 is what
        `ppsr-export --int8` writes: QuantizeLinear and DequantizeLinear around linear layers and
        convolutions, symmetric, weights per output channel, activations per tensor. Attention's
        products, softmax and norms stay FP32."""
    legend = f"""
        PSNR of Y, unrounded, dB, and SSIM, on whole pictures; the change against FP32 in brackets.
        Times are of one crop of {height} x {width}, in turns. "Layers" are those in INT8, of
        {measured["layers"]}. Naive: all of them, ranges are the largest values seen. But the
        ends: without {ends}, ranges by the estimator `{found["estimator"]}`. Mixed:
        `benchmarks/results/recipe_x2.toml`, found within {found["budget"]:g} dB, which is what
        `--int8` makes of this network without a search. FP16 with its islands in FP32, every tensor
        really rounded; a CPU would compute it in FP32, so it has no time."""
    search = f"""
        Each group of layers alone in INT8, on {found["held_in"]} crops of half of the calibration
        pictures: PSNR between the outputs and those in FP32, the loss against ground truth, the
        share of tokens that are sorted into another category. Of {len(found["groups"])} groups
        {moved} are in the recipe. It was checked on {found["held_out"]} pictures or large crops of
        the other half, where PSNR changes by {-best["psnr_drop"]:+.4f} dB ({best["psnr"]:.1f} dB
        between the outputs), and saves {100 * found["saved"]:.0f} % of what these layers take, were
        a number of 8 bits a quarter of the work of one of 32."""
    return f"""# INT8: what it costs and what it gains

<!-- Made by benchmarks/int8_page.py from benchmarks/results; do not edit. -->

{_filled(what)}

## The graphs

{_filled(verdict(rows, timed["rows"]))}

{_table(rows, timed["rows"])}

{_filled(legend)}

{_ranges(content.get("estimators"))}## Which layers

{_filled(search)}

![Loss by group of layers](int8.svg)

{_groups(found["groups"])}

Mixes that were tried on those pictures: the first so many groups of the order "least error per
saving", without those that broke the budget where their turn came.

{_trials(found["trials"])}

## How it was measured

```
python benchmarks/int8.py search ../shared/data/val
python benchmarks/int8.py estimators ../shared/data/val
python benchmarks/int8.py measure ../shared/data/eval ../shared/data/val
python benchmarks/int8.py times
```
"""


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 100, break_on_hyphens=False)


def verdict(rows: Mapping[str, Any], times: Mapping[str, Any]) -> str:
    """Say what the figures mean for a user: is INT8 worth it on this machine?"""
    full, mixed = rows["fp32"], rows["mixed"]
    faster = times["mixed"]["times_as_fast"]["median"]
    smaller = full["bytes"] / mixed["bytes"]
    change = mixed["sets"]["B100"]["psnr_y"] - full["sets"]["B100"]["psnr_y"]
    worth = "worth it for the size of the file alone" if faster < 1.05 else "worth it"
    return (
        f"The mix, {mixed['layers']} layers in INT8, changes B100 by {change:+.3f} dB, its file is "
        f"{smaller:.2f} times smaller, and on this CPU it is {faster:.2f} times as fast as FP32: "
        f"{worth}."
    )


def _table(rows: Mapping[str, Any], times: Mapping[str, Any]) -> str:
    sets = list(rows["fp32"]["sets"])
    lines = [
        f"| | layers | MB | ms | times as fast | {' | '.join(sets)} |",
        "|---|---|---|---|---|" + "---|" * len(sets),
    ]
    for name, row in rows.items():
        cells = " | ".join(_quality(row["sets"][one], rows["fp32"]["sets"][one]) for one in sets)
        took, faster = "", ""
        if name in times:
            took = f"{times[name]['milliseconds']['median']:.0f}"
            faster = f"{times[name]['times_as_fast']['median']:.2f}"
        megabytes = f"{row['bytes'] / 1e6:.2f}"
        lines.append(f"| {name} | {row['layers']} | {megabytes} | {took} | {faster} | {cells} |")
    return "\n".join(lines)


def _quality(row: Mapping[str, float], full: Mapping[str, float]) -> str:
    change = row["psnr_y"] - full["psnr_y"]
    told = f" ({change:+.3f})" if row is not full else ""
    return f"{row['psnr_y']:.3f}{told}, {row['ssim_y']:.4f}"


def _ranges(compared: Mapping[str, Any] | None) -> str:
    """The section on estimators, where they were compared."""
    if compared is None:
        return ""
    psnrs = compared["psnr_y"]
    lines = [
        "## Which ranges\n",
        f"What `--int8` makes, on {compared['pictures']} pictures and large crops that no range "
        "was taken of:\n",
        "| estimator | PSNR of Y, dB | lost |",
        "|---|---|---|",
    ]
    for name, value in psnrs.items():
        lines.append(f"| {name} | {value:.4f} | {psnrs['fp32'] - value:.4f} |")
    return "\n".join(lines) + "\n\n"


def _groups(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "| layers | between, dB | lost, dB | flipped | in the recipe |"
    lines = [head, "|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| `{row['group']}` | {row['psnr']:.1f} | {row['psnr_drop']:.4f} "
            f"| {100 * row['flipped']:.1f} % | {'yes' if row['chosen'] else ''} |"
        )
    return "\n".join(lines)


def _trials(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| groups | without | lost, dB | between, dB |", "|---|---|---|---|"]
    for row in rows:
        refused = ", ".join(f"`{name}`" for name, _ in row["refused"])
        lines.append(f"| {row['moves']} | {refused} | {row['psnr_drop']:.4f} | {row['psnr']:.1f} |")
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot the error of each group, in the order of the network."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ppsr"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 9), layout="constrained")
    names = [row["group"] for row in rows]
    colours = ["tab:blue" if row["chosen"] else "tab:orange" for row in rows]
    axes.barh(names, [row["psnr"] for row in rows], color=colours)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(left=0.95 * min(row["psnr"] for row in rows))
    axes.set_xlabel("PSNR between the outputs, this group alone in INT8, dB (blue: in the recipe)")
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    write()
