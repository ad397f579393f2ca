"""Pictures for a reviewer: the mask over the input, bicubic and each model's output beside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyvips

from ppsr.models.config import PurePass
from ppsr.models.pure_pass import pad_to_grid
from ppsr.runtime.batch.overlay import tinted
from ppsr.runtime.imresize import imresize
from ppsr.runtime.pixels import ArrayPixels
from ppsr.runtime.routing import Skipped
from ppsr.runtime.tiles import WHOLE

from .inputs import Input, Rgb
from .models import Model

Pure = npt.NDArray[np.bool_]

SHOWN = 3
SIDE = 256
"""Of the input, at most: the middle of a larger picture is shown."""
AMPLIFIED = 8


@dataclass(frozen=True)
class Figure:
    """One picture on the page."""

    title: str
    data: str
    """A data: address of a lossless WebP."""
    size: tuple[int, int]
    """H W."""


@dataclass(frozen=True)
class Shown:
    """One input, seen in several ways."""

    name: str
    pure: float | None
    """Share of pure pixels of what is shown."""
    figures: tuple[Figure, ...]


def show(models: Sequence[Model], inputs: Sequence[Input]) -> list[Shown]:
    """Show up to ``SHOWN`` inputs, from the least to the most pure, by all models.

    Their middle is cut out and enlarged anew, at most ``SIDE`` a side. The dense model, if any, is
    the last one. Raises PpsrError where a model fails.
    """
    settings = next((s for m in models if (s := m.upscaler.artefact.pure_pass) is not None), None)
    cut = [(one.name, rgb, _mask(settings, rgb)) for one in inputs for rgb in [_middle(one.rgb)]]
    if settings is not None:
        cut.sort(key=lambda one: 0.0 if one[2] is None else float(one[2].mean()))
    places = np.unique(np.linspace(0, len(cut) - 1, SHOWN).round().astype(int)).tolist()
    return [_show(models, *cut[place]) for place in places]


def _mask(settings: PurePass | None, rgb: Rgb) -> Pure | None:
    if settings is None:
        return None
    return settings.mask(pad_to_grid(rgb))[: rgb.shape[0], : rgb.shape[1]]


def _show(models: Sequence[Model], name: str, rgb: Rgb, mask: Pure | None) -> Shown:
    scale = models[0].upscaler.scale
    figures = []
    if mask is not None:
        rows = list(tinted(ArrayPixels(rgb), Skipped(lambda top, bottom: mask[top:bottom])))
        figures.append(_figure("mask (tinted: pure)", np.concatenate(rows), scale))
    figures.append(_figure("bicubic", imresize(rgb, scale)))
    outputs: list[Rgb] = [model.upscaler.upscale(rgb, tiling=WHOLE).pixels for model in models]
    figures += [_figure(model.name, out) for model, out in zip(models, outputs, strict=True)]
    if len(models) > 1 and outputs[0].shape == outputs[-1].shape:
        apart = np.abs(outputs[0].astype(np.int16) - outputs[-1])
        title = f"difference of {models[0].name} and {models[-1].name}, x {AMPLIFIED}"
        figures.append(_figure(title, (apart * AMPLIFIED).clip(0, 255).astype(np.uint8)))
    return Shown(name, None if mask is None else float(mask.mean()), tuple(figures))


def _middle(rgb: Rgb) -> Rgb:
    top, left = (max(0, (size - SIDE) // 2) for size in rgb.shape[:2])
    return np.ascontiguousarray(rgb[top : top + SIDE, left : left + SIDE])


def _figure(title: str, rgb: Rgb, times: int = 1) -> Figure:
    larger = np.ascontiguousarray(rgb.repeat(times, 0).repeat(times, 1))
    data = pyvips.Image.new_from_array(larger, interpretation="srgb").webpsave_buffer(lossless=True)
    address = "data:image/webp;base64," + b64encode(data).decode()
    return Figure(title, address, (larger.shape[0], larger.shape[1]))
