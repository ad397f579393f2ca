"""What cutting a picture into tiles changes, by size of tile and overlap.

    python benchmarks/tiling.py measure artifacts/pp-atd-light_x2_fp32_routed.onnx ../shared/data/eval/large ../shared/data/val
    python benchmarks/tiling.py page

``measure`` enlarges photos as a whole and in tiles, and adds what is missing in
``benchmarks/results/tiling.json``; ``page`` makes ``docs/tiling.md`` and its plot of it.
"""  # noqa: E501

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from ppsr.runtime import bench
from ppsr.runtime.command import reports_errors
from ppsr.runtime.dataset import find_pictures, read_ground_truth
from ppsr.runtime.files import write_atomically
from ppsr.runtime.imresize import degrade
from ppsr.runtime.metrics import psnr_y
from ppsr.runtime.tiles import OVERLAP, Tiling, cut
from ppsr.runtime.upscaler import Upscaler
from ppsr.runtime.versions import installed

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "benchmarks/results/tiling.json"
PAGE, PLOT = ROOT / "docs/tiling.md", ROOT / "docs/tiling.svg"
SMALL, LARGE = (320, 448), (576, 832)
"""Low-resolution pixels that are taken of a picture: at most, and of those that have so many."""
TILINGS = {
    SMALL: [(192, 16), (192, 32), (192, 64), (192, 96), (128, 16), (128, 32), (128, 64)],
    LARGE: [(384, 32), (384, 64), (384, 96)],
}
PHOTOS = ("clic", "photo", "cid22")
"""How the names of photos begin; the folders hold screenshots as well."""
SCREENSHOT = "clic25test_ebfd571f1c682"
"""One whose name does not tell: a page of text. It is counted by itself."""
Floats = npt.NDArray[np.float32]


@click.group()
def main() -> None:
    """Measure tiles and write the page about them."""


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folders", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--each", default=4, show_default=True, help="Photos of each folder.")
@reports_errors
def measure(model: Path, folders: tuple[Path, ...], each: int) -> None:
    """Enlarge photos as a whole and in tiles."""
    with Upscaler.open(model, device="cpu") as up:
        rows = _known(up.artefact.weights_sha256)
        for name, truth, low, tilings in _crops(folders, each, up.scale):
            known = {(row["picture"], row["tile"], row["overlap"]) for row in rows}
            missing = [tiling for tiling in tilings if (name, *tiling) not in known]
            if not missing:
                continue
            whole = _enlarged(up, low, Tiling())
            true = psnr_y(_levels(whole), truth, up.scale)
            for tile, overlap in missing:
                tiled = _enlarged(up, low, Tiling(tile, overlap))
                error = float(np.square(tiled - whole, dtype=np.float64).mean())
                rows.append(
                    {
                        "picture": name,
                        "size": low.shape[:2],
                        "tile": tile,
                        "overlap": overlap,
                        "psnr": -10 * math.log10(error),
                        "against_truth": psnr_y(_levels(tiled), truth, up.scale) - true,
                        **_steps(whole, tiled, tile, overlap, up.scale),
                    }
                )
                click.echo(json.dumps(rows[-1]))
        content = {
            "machine": bench.machine(),
            "versions": installed(("ppsr", "numpy", "onnxruntime")),
            "model": up.artefact.stem,
            "weights_sha256": up.artefact.weights_sha256,
            "rows": rows,
        }
    write_atomically(TARGET, (json.dumps(content, indent=1) + "\n").encode())


@main.command()
@reports_errors
def page() -> None:
    """Write docs/tiling.md and its plot."""
    content = json.loads(TARGET.read_text())
    write_atomically(PAGE, spell(content).encode())
    draw(content, PLOT)


def _known(weights: str) -> list[dict[str, Any]]:
    """What was measured before, of the same weights."""
    content = json.loads(TARGET.read_text()) if TARGET.exists() else {"weights_sha256": None}
    rows: list[dict[str, Any]] = content["rows"] if content["weights_sha256"] == weights else []
    return rows


def _crops(folders: tuple[Path, ...], each: int, scale: int) -> Any:
    """Yield name, ground truth and low resolution of the middle of each photo, and its tilings."""
    for folder in folders:
        found = [path for path in find_pictures(folder) if path.name.startswith(PHOTOS)]
        for path in found[:each]:
            truth = read_ground_truth(path)
            for most, tilings in TILINGS.items():
                sizes = list(zip(truth.shape[:2], most, strict=True))
                if most == LARGE and any(size < scale * wanted for size, wanted in sizes):
                    continue
                height, width = (
                    min(size, scale * wanted) // scale * scale for size, wanted in sizes
                )
                top, left = (truth.shape[0] - height) // 2, (truth.shape[1] - width) // 2
                crop = truth[top : top + height, left : left + width]
                yield path.stem[:24], crop, degrade(crop, scale)[0], tilings


def _enlarged(up: Upscaler, low: npt.NDArray[Any], tiling: Tiling) -> Floats:
    return up.upscale(low, np.dtype(np.float32), tiling).pixels


def _levels(picture: Floats) -> npt.NDArray[np.uint8]:
    return np.rint(picture * 255).astype(np.uint8)


def _steps(whole: Floats, tiled: Floats, tile: int, overlap: int, scale: int) -> dict[str, float]:
    """How much the step across a line changes, in levels of 255, on average along the line.

    The largest one of all lines where a tile begins or ends, and that of all other lines.
    """
    largest = {"seam_step": 0.0, "other_step": 0.0}
    for axis, size in enumerate(whole.shape[:2]):
        grid = -(-size // scale // 16) * 16
        tiles = cut(grid, tile, overlap)
        edges = {scale * start for start in tiles.starts[1:]}
        edges |= {scale * (start + tiles.length) for start in tiles.starts[:-1]}
        change = np.diff(tiled - whole, axis=axis).mean((1 - axis, 2)) * 255
        for line, step in enumerate(np.abs(change), start=1):
            key = "seam_step" if line in edges else "other_step"
            largest[key] = max(largest[key], float(step))
    return largest


def spell(content: dict[str, Any]) -> str:
    """The page, from what was measured."""
    groups = _groups(content, screenshots=False)
    rows = "\n".join(
        f"| {tile} | {overlap} | {fmean(of['psnr']):.1f} / {min(of['psnr']):.1f} "
        f"| {fmean(of['against_truth']):+.4f} / {min(of['against_truth']):+.4f} "
        f"| {max(of['seam_step']):.2f} | {max(of['other_step']):.2f} |"
        for (tile, overlap), of in groups.items()
    )
    default, larger = groups[192, OVERLAP]["psnr"], groups[384, OVERLAP]["psnr"]
    narrow = fmean(default) - fmean(groups[192, 16]["psnr"])
    wide = fmean(groups[192, 96]["psnr"]) - fmean(default)
    screenshot = _groups(content, screenshots=True)
    text = [screenshot[tile, OVERLAP]["psnr"][0] for tile in (192, 384)]
    return f"""# Tiles: what cutting a picture changes

<!-- Made by benchmarks/tiling.py from benchmarks/results/tiling.json. -->

A picture that does not fit into memory is cut into tiles with an overlap, in which one tile is
faded into the next (`runtime/tiles.py`). A routed model gets the mask of the whole picture, cut:
tiles never change which pixels are routed. (A self-contained one finds its own in each tile; the
windows at a tile's edge may differ.) What tiles do change is ATD's grouping: tokens of one category
attend to each other in groups of 128 that are filled from the whole picture, and from a tile they
are filled otherwise. So a tiled picture is another one everywhere, not only at the seams, and no
overlap makes it the same.

`{content["model"]}`, weights `{content["weights_sha256"][:12]}`, low-resolution crops of
photos, {SMALL[0]} x {SMALL[1]} at most and, for tiles of 384, {LARGE[0]} x {LARGE[1]}. PSNR is that
between tiled and whole, unrounded; "truth" is what tiling changes in PSNR of Y against ground
truth. A step is the change of brightness across a line between two rows or columns of pixels; the
table says by how much tiling changes it, averaged along the line, in levels of 255: the largest of
all lines where a tile begins or ends, and the largest of all other lines.

| tile | overlap | PSNR, dB: mean / least | truth, dB: mean / least | step at a seam | elsewhere |
|---|---|---|---|---|---|
{rows}

![PSNR and steps by overlap](tiling.svg)

**The default overlap is {OVERLAP}**: it holds an attention window and the convolutions around
it. In tiles of 192, 16 has {narrow:.2f} dB less, 96 has {wide:.2f} dB more and computes twice
as many pixels.

Above 50 dB are {_above(default)} photos in tiles of 192 and {_above(larger)} in tiles of 384;
the least have {min(default):.1f} and {min(larger):.1f} dB. A screenshot of small text, not in the
table, has {text[0]:.1f} and {text[1]:.1f} dB: one token in another group changes the groups after
it, as between FP32 and FP16 ([parity](parity.md)). Larger tiles help more than overlap does, so
`ppsr-run` takes the largest that fit into memory. Seams do not show: no step at one is larger than
the largest one elsewhere.

Measured with `python benchmarks/tiling.py measure artifacts/{content["model"]}.onnx
../shared/data/eval/large ../shared/data/val` on {content["machine"]["cpu"]}.
"""


def _above(values: list[float]) -> str:
    return f"{sum(value > 50 for value in values)} of {len(values)}"


def draw(content: dict[str, Any], path: Path) -> None:
    """Plot PSNR and the largest step by overlap, for each size of tile."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "ppsr"
    from matplotlib import pyplot as plt

    groups = _groups(content, screenshots=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for colour, tile in enumerate(sorted({tile for tile, _ in groups})):
        style = {"color": f"C{colour}", "label": f"tiles of {tile}"}
        overlaps = [overlap for size, overlap in groups if size == tile]
        chosen = [groups[tile, overlap] for overlap in overlaps]
        left.plot(overlaps, [fmean(of["psnr"]) for of in chosen], "o-", **style)
        right.plot(overlaps, [max(of["seam_step"]) for of in chosen], "o-", **style)
        style["label"] += ", elsewhere"
        right.plot(overlaps, [max(of["other_step"]) for of in chosen], "x:", **style)
    left.set(xlabel="overlap, pixels", ylabel="PSNR tiled against whole, dB (mean)")
    right.set(xlabel="overlap, pixels", ylabel="largest change of a step, levels", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _groups(
    content: dict[str, Any], *, screenshots: bool
) -> dict[tuple[int, int], dict[str, list[float]]]:
    """Columns of figures by tile and overlap, of photos or of what is none."""
    groups: dict[tuple[int, int], dict[str, list[float]]] = {}
    for row in content["rows"]:
        if (row["picture"] == SCREENSHOT) != screenshots:
            continue
        of = groups.setdefault((row["tile"], row["overlap"]), {})
        for key in ("psnr", "against_truth", "seam_step", "other_step"):
            of.setdefault(key, []).append(row[key])
    return groups


if __name__ == "__main__":
    main()
