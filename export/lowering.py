"""Which stage puts a graph in the precision that was asked for, and the ranges that INT8 takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx

from ppsr.calibration.collect import collect
from ppsr.calibration.ranges import Ranges, read_ranges
from ppsr.calibration.recipe import Recipe, read_recipe
from ppsr.calibration.samples import Samples, draw, list_pictures
from ppsr.models.registry import MODELS
from ppsr.runtime.artefact import Artefact

from .graph_backend import GraphBackend, graph_sha256
from .linear import list_layers_of, sites_of
from .mixed import mixed
from .options import ExportOptions
from .precision import to_fp16
from .quantise import quantise
from .tuning import Stage

CROPS = 32
"""That ranges are taken from: rare values are what matters there."""

Told = Recipe | Ranges | Samples | None
"""What a precision needs to know beside the network."""


def read_told(options: ExportOptions) -> Told:
    """Read what the options name: the recipe, the ranges, the pictures to take ranges from.

    Raises UsageError (PictureError) where it is missing, or something else.
    """
    if options.recipe is not None:
        return read_recipe(options.recipe)
    if options.calibration is not None:
        return read_ranges(options.calibration)
    if options.data is not None:
        return draw(list_pictures([options.data]), options.scale, CROPS)
    return None


def lowering(
    options: ExportOptions, told: Recipe | Ranges | None, body: onnx.ModelProto, weights_sha256: str
) -> Stage | None:
    """Return the stage that puts ``body``, in FP32, in the precision asked for; None: as it is.

    Raises UsageError where ``told`` is of another network.
    """
    layers = [layer.name for layer in list_layers_of(body)]
    if isinstance(told, Recipe):
        precisions = told.require(layers, options.model, options.scale, weights_sha256)
        mix = partial(
            mixed,
            precisions=precisions,
            amax=told.amax,
            default=told.default,
            islands=MODELS[options.model].islands,
        )
        return "precision mixed", mix
    if isinstance(told, Ranges):
        told.require(graph_sha256(body))
        # A picture has 256 levels for each colour already, and 8 bits more of rounding cost more
        # next to it than in all other layers together (docs/int8.md).
        kept = MODELS[options.model].kept_from_int8
        inner = [name for name in layers if name not in kept]
        return "precision int8", partial(quantise, layers=inner, amax=told.amax)
    islands = MODELS[options.model].islands
    return ("precision fp16", partial(to_fp16, islands=islands)) if options.fp16 else None


def take_ranges(
    body: onnx.ModelProto,
    artefact: Artefact,
    pictures: Iterable[npt.NDArray[np.uint8]],
    estimator: str,
    *,
    threads: int | None = None,
    on_picture: Callable[[int], object] = lambda _number: None,
) -> Ranges:
    """Run pictures, uint8 H W 3, through a routed FP32 graph -> the ranges of all its sites.

    Raises UsageError where there is no picture, or all are pure.
    """
    sites = sites_of(list_layers_of(body))
    with GraphBackend(body, artefact, watch=list(sites.values()), threads=threads) as shown:
        return collect(shown, sites, pictures, estimator, graph_sha256(body), on_picture=on_picture)
