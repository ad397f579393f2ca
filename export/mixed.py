"""The mixed-precision stage: each layer of a graph in FP32, FP16 or INT8, as a recipe says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from ppsr.calibration.recipe import Default, LayerPrecision

from .islands import ISLANDS, Island
from .linear import list_layers_of
from .precision import finder, halve
from .quantise import quantise


def mixed(
    body: onnx.ModelProto,
    precisions: Mapping[str, LayerPrecision],
    amax: Mapping[str, float],
    default: Default = "fp32",
    islands: Sequence[Island] = ISLANDS,
) -> onnx.ModelProto:
    """Return the FP32 graph with the named layers in the precisions given for them.

    body: as ``linear.list_layers_of`` takes it; amax: as ``quantise`` takes it. ``default`` is the
    precision of all else: of the layers that are not named, of the nodes between layers; with
    "fp16" ``islands`` stay FP32. What INT8 is made of and into is FP32, whatever the default: in
    FP16 a small scale would lose its digits. Raises PrecisionError as ``quantise`` and ``halve``.
    """
    layers = list_layers_of(body)
    whole = quantise(body, [name for name, of in precisions.items() if of == "int8"], amax)
    of_layers = {
        node: precisions[layer.name]
        for layer in layers
        if layer.name in precisions
        for node in layer.nodes
    }
    if default == "fp32":
        half = {node for node, precision in of_layers.items() if precision == "fp16"}
        return halve(whole, half.__contains__) if half else whole
    before = {node.name for node in body.graph.node}
    full = {node.name for node in whole.graph.node} - before
    full |= {node for node, precision in of_layers.items() if precision != "fp16"}
    is_island = finder(islands)
    return halve(whole, lambda name: name not in full and not is_island(name))
