"""The page docs/performance.md and its plot, from what speed.py, passes.py and ppsr-bench found.

    python benchmarks/speed_page.py

ppsr-bench wrote the curves and ppsr-verify what is told of BF16: their commands stand at the end of
the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from speed import CONTESTANTS, SIZED, SQUARES, TARGET, TILE, WHOLE_UP_TO
from versus import OFFICIAL

from ppsr.runtime.files import write_atomically

ROOT = Path(__file__).parents[1]
PAGE, PLOT = ROOT / "docs/performance.md", ROOT / "docs/performance.svg"
CURVES = {
    "onnxruntime, FP32": ROOT / "benchmarks/results/shares_onnxruntime.json",
}
EARLIER = ROOT / "benchmarks/results/speed_earlier.json"
"""Of another machine, when nothing but torch's product was timed, and no CPU's family noted."""
BF16 = ROOT / "benchmarks/results/bf16.json"
PARTS = {
    "attn_win": "window attention",
    "attn_aca": "category attention (AC-MSA)",
    "attn_atd": "dictionary attention",
    "convffn": "feed-forward",
    "refine": "refinement",
    "norm3": "refinement's norm",
}
RUNTIMES = {
    "cpu": "onnxruntime",
    "openvino": "OpenVINO",
    "openvino-bf16": "OpenVINO in BF16",
}
STEPS = {
    "any": "for any runtime",
    "tokens gathered": "tokens gathered before q, k, v",
    "feed-forward on tokens": "the same, feed-forward on tokens instead of maps",
    "no ArgMax": "for OpenVINO: the same, categories by two maxima instead of ArgMax",
    "chunks, feed-forward on maps": "chunks of 4 windows and 8 groups, feed-forward on maps",
    "chunks": "the same, feed-forward on tokens",
    "chunks, attention spelt out": "that, with product, softmax and product instead of Attention",
    "chunks, norms spelt out": "that, with norms spelt out instead of LayerNormalization",
    "chunks, biases added": "that, with the surgery for onnxruntime",
    "chunks, codes in all of them": "chunks of 4 and 8 as below, all shifted windows masked",
}
"""Those of several chunk sizes are called by them."""


def spell(figures: Mapping[str, Any], curves: Mapping[str, Any]) -> str:
    """The page, from what was measured."""
    versus, again, ceiling = figures["versus"], figures["versus again"], figures["ceiling"]
    earlier = figures["earlier"]
    height, width = versus["size"]
    machine, versions = figures["machine"], figures["versions"]
    return f"""# Speed on a CPU

<!-- Made by benchmarks/speed_page.py from benchmarks/results; do not edit. -->

x2, low-resolution crops of photos, {machine["cores_allowed"]} cores of an {machine["cpu"]};
onnxruntime {versions["onnxruntime"]}, OpenVINO {versions["openvino"]}, torch {versions["torch"]}.
Times are medians; what is compared ran in turns, A B A B, and ratios are taken round by round, so
that a machine that slows down does not change them.

## The graphs

`--target onnxruntime` and `--target openvino` export the same network as other graphs
(`export/cpu_layer.py`, `export/chunked.py`, `export/attention_nodes.py`); each is plain ONNX,
verified like any other.

- A picture's attention logits do not fit into a CPU's caches: product, bias, softmax and product
  each went through memory. For onnxruntime a Scan takes 4 windows or 8 groups at a time from their
  tokens to their projected tokens, and in it ONNX's own Attention (opset 23) takes one head after
  the other, so that logits stay in the cache; a picture never holds more of them, and needs a
  fraction of the memory. Fewer tokens than a group of 128 has places need a mask, and pure tokens
  get the window attention's output back: pictures that need neither take branches without. Shifted
  windows need their mask, and heads wider for it, at the border alone: those windows come last, and
  the chunks before them go without.
- OpenVINO makes one kernel of product, bias, softmax and product by itself. It gets linear layers
  that it has in BF16, maps with their channels last, and no ArgMax, which it has as a TopK.
- In both, tokens are gathered before q, k and v are made of them (48 channels, not 192), the bias
  of the keys is dropped (softmax does not see it).
- OpenVINO has the bias of the values in the projection. For onnxruntime the norms carry the biases
  of what reads them: the channels that they make sum to 0, so the last one is known and holds 1
  instead, and its weights are the biases. Those of both attentions' projections go into the
  dictionary's values, once per picture; what one has more than the other, which active tokens
  want and pure ones do not, goes into the values of both attentions (`export/biases.py`).

## Against the official code and against arithmetic

{height} x {width}, {100 * versus["pure"]:.0f} % pure, FP32 unless said. Arithmetic alone: the
published masked network's {versus["multiply_adds"] / 1e9:.1f} G multiply-adds (dense:
{versus["dense_multiply_adds"] / 1e9:.1f} G) at the rate of a product of two matrices of
{versus["matrix"]} x {versus["matrix"]} in FP32, in the same rounds. Not each library uses all of
this CPU: {_rates(versus)}.

{_versus_rows(versus)}

This machine is shared, and how fast it is changes within minutes. The same command once more, later
({_rates(again)}):

{_versus_rows(again)}

Another machine, earlier: 2 cores of an AMD EPYC whose family was not noted, beside torch's product
alone ({_rates(earlier["versus"])}), and once more ({_rates(earlier["versus again"])}):

{_versus_rows(earlier["versus"])}

{_versus_rows(earlier["versus again"])}

{_bf16(figures["bf16"])}

Where the dense network's time goes (onnxruntime, its own profile): {_ceiling(ceiling)}.

## What masking saves

Masked against dense, both exported alike, {height} x {width}, by share of pure pixels: masks
made of random 8 x 8 windows on one crop, and crops of photos of B100 with their own. Routing is
included. Beside the saving of time stands that of multiply-adds: as the papers count them, and of
all that the networks do in torch, masks included.

{chr(10).join(_curve(name, content) for name, content in curves.items())}
AC-MSA takes {100 * ceiling["attn_aca"]:.0f} % of the dense network's time: no mask can save more.

![Saving over the share of pure pixels](performance.svg)

## Sizes

Squares of mirrored photo, whole up to {WHOLE_UP_TO} x {WHOLE_UP_TO}, in tiles of {TILE}
above: microseconds per pixel, and the most memory of a process that does nothing else.

{_sizes(figures["sizes"])}

onnxruntime keeps the memory of a run of up to 192 x 192 pixels for the next one of the same size:
of a crop of {height} x {width} {_memory(figures["memory"])} of the time.

## From the command to the picture

What `ppsr-run` adds to the network's own time on a PNG of 512 x 512 (imports, session, decoding,
encoding): {_start(figures["start"])}.

## What each step gained

Variants of the graph on the crop above, in turns; times as fast as the graph for any runtime. The
surgery for onnxruntime: one-hot rows gathered, one number of a row gathered before it is added,
nothing scattered where all tokens are active. Rows with two sizes of chunks have it, and biases
carried by others: the graph as exported, with so many windows and groups in a chunk.

{_passes(figures["passes"])}

## How it was measured

```
python benchmarks/versus.py
python benchmarks/versus.py --again
python benchmarks/speed.py start | sizes | memory | ceiling
python benchmarks/passes.py make && python benchmarks/passes.py measure
{_command(figures["bf16"])}
{chr(10).join(_command(content) for content in curves.values())}
```
"""


def _rates(versus: Mapping[str, Any]) -> str:
    """What each library multiplies in a second: twice as many operations as multiply-adds."""
    work = 2 * versus["matrix"] ** 3 / 1e6
    rates = {name: work / spent["median"] for name, spent in versus["products"].items()}
    return ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())


def _versus_rows(versus: Mapping[str, Any]) -> str:
    head = "".join(f" over arithmetic by {name} (quartiles) |" for name in versus["products"])
    lines = [
        f"| | ms | times as fast as the official code |{head}",
        "|---|---|---|" + "---|" * len(versus["products"]),
    ]
    for name in (OFFICIAL, *CONTESTANTS):
        row = versus["rows"][name]
        cells = "".join(
            f" {over['median']:.2f} ({over['low']:.2f} to {over['high']:.2f}) |"
            for over in row["over_floor"].values()
        )
        lines.append(
            f"| {name} | {row['milliseconds']['median']:.0f} "
            f"| {row['times_as_fast']['median']:.2f} |{cells}"
        )
    return "\n".join(lines)


def _bf16(proof: Mapping[str, Any]) -> str:
    """What ppsr-verify found of BF16."""
    rows, overall = proof["rows"], proof["overall"]
    drops = {row["picture"]: row["psnr_y"]["drop"] for row in rows}
    worst = max(drops, key=drops.__getitem__)
    sets = {
        name: [drop for one, drop in drops.items() if one.startswith(f"{name}/")]
        for name in proof["data"]
    }
    lost = ", ".join(f"{name} {fmean(of):+.4f} dB" for name, of in sets.items())
    return f"""BF16 against the network in FP32 (torch), PSNR of Y against ground truth, {len(rows)}
whole pictures: lost are {lost}
on average (less than 0: gained), {drops[worst]:.3f} dB at most ({worst}). The
outputs agree to {overall["psnr_least"]:.1f} dB at least (`benchmarks/results/bf16.json`)."""


def _ceiling(shares: Mapping[str, float]) -> str:
    named = ((PARTS.get(part, part), share) for part, share in shares.items())
    return ", ".join(f"{part} {100 * share:.0f} %" for part, share in named)


def _curve(name: str, content: Mapping[str, Any]) -> str:
    (curve,) = content["shares"]
    lines = [
        f"### {name}",
        "",
        "| pure | masks | saving (quartiles) | papers' multiply-adds | all multiply-adds |",
        "|---|---|---|---|---|",
    ]
    for kind, label in (("synthetic", "made"), ("real", "photo")):
        for point in sorted(curve[kind], key=lambda point: point["share"]):
            saving = point["saving"]
            lines.append(
                f"| {100 * point['share']:.0f} % | {label} | {100 * saving['median']:.1f} % "
                f"({100 * saving['low']:.1f} to {100 * saving['high']:.1f}) "
                f"| {100 * point['saving_paper']:.1f} % "
                f"| {100 * point['saving_multiply_adds']:.1f} % |"
            )
    found = curve["break_even"]
    share = f"Masked is faster from {100 * found['share']:.0f} % of pure pixels on."
    lines += ["", f"{share} {_line(found)} {_routing(content)}"]
    return "\n".join([*lines, ""])


def _line(found: Mapping[str, float]) -> str:
    """What the line through the made masks says of three shares: single points are noisy."""
    savings = [
        f"{100 * (found['intercept'] + share * found['slope']):.1f} % at {100 * share:.0f} %"
        for share in (0, 0.4, 0.9)
    ]
    return f"The line through the made masks saves {', '.join(savings)}."


def _routing(content: Mapping[str, Any]) -> str:
    """How much of the masked time is routing, on the plain pictures."""
    rows = [
        row for row in content["rows"] if row["routing_milliseconds"] and row["pure"] is not None
    ]
    shares = [row["routing_milliseconds"]["median"] / row["milliseconds"]["median"] for row in rows]
    return f"Routing takes at most {100 * max(shares):.2f} % of the masked time."


def _sizes(rows: list[dict[str, Any]]) -> str:
    head = "".join(f" {side} x {side} |" for side in SQUARES)
    lines = [f"| |{head}", "|---|" + "---|" * len(SQUARES)]
    for name in SIZED:
        of = {row["side"]: row for row in rows if row["name"] == name}
        cells = (
            f" {row['microseconds_per_pixel']:.1f} us, {row['peak_bytes'] / 1e9:.2f} GB |"
            for row in map(of.__getitem__, SQUARES)
        )
        lines.append(f"| {name} |" + "".join(cells))
    return "\n".join(lines)


def _memory(content: Mapping[str, Any]) -> str:
    saved = ((name, 100 * row["saving"]["median"]) for name, row in content.items())
    return "that saves " + ", ".join(f"{share:.1f} % ({name})" for name, share in saved)


def _start(content: Mapping[str, Any]) -> str:
    added = content["added_milliseconds"].items()
    return ", ".join(f"{name} {one['median'] / 1000:.2f} s" for name, one in added)


def _passes(content: Mapping[str, Any]) -> str:
    head = " | ".join(RUNTIMES[device] for device in content)
    lines = [f"| | {head} |", "|---|" + "---|" * len(content)]
    for name in dict.fromkeys(name for of in content.values() for name in of):
        cells = " | ".join(_step(of.get(name)) for of in content.values())
        lines.append(f"| {STEPS.get(name, name)} | {cells} |")
    return "\n".join(lines)


def _step(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['times_as_fast']['median']:.2f} ({row['milliseconds']['median']:.0f} ms)"


def _command(content: Mapping[str, Any]) -> str:
    return " ".join(content["command"])


def draw(curves: Mapping[str, Any], path: Path) -> None:
    """Plot the saving over the share of pure pixels."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ppsr"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for number, (name, content) in enumerate(curves.items()):
        (curve,) = content["shares"]
        for kind, style, label in (("synthetic", "o-", "made masks"), ("real", "x", "photos")):
            points = sorted(curve[kind], key=lambda point: point["share"])
            axes.plot(
                [100 * point["share"] for point in points],
                [100 * point["saving"]["median"] for point in points],
                style,
                color=f"C{number}",
                label=f"{name}, {label}",
            )
        if not number:
            axes.plot(
                [100 * point["share"] for point in curve["synthetic"]],
                [100 * point["saving_paper"] for point in curve["synthetic"]],
                "--",
                color="grey",
                label="multiply-adds, as the papers count",
            )
    axes.set(xlabel="pure pixels, %", ylabel="saving of time, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def load() -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the figures and the curves."""
    figures = {
        **json.loads(TARGET.read_text()),
        "earlier": json.loads(EARLIER.read_text()),
        "bf16": json.loads(BF16.read_text()),
    }
    return figures, {name: json.loads(path.read_text()) for name, path in CURVES.items()}


if __name__ == "__main__":
    known = load()
    write_atomically(PAGE, spell(*known).encode())
    draw(known[1], PLOT)
