"""Trace the network and its front end into ONNX with torch's dynamo exporter, sizes dynamic."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as passes
from torch import Tensor, nn
from torch.export import Dim
from torch.fx.experimental import _config as shape_config  # private: torch is pinned below 2.14

from ppsr.models.category import category_order, category_rank
from ppsr.models.network import Network
from ppsr.models.pure_pass import GRID
from ppsr.models.routing import PurityMask
from ppsr.runtime.artefact import ACTIVE, ATTENDED, COUNT, INPUT, OUTPUT

PADDED = "padded"
"""Output of the front end: the picture mirrored to multiples of 16."""

TRACED_SIZE = (48, 80)
"""Height and width of the traced example; verification uses none of it."""

_FOLD = 4096
"""Elements of the largest tensor that constant folding may consume or make: the first dictionaries
are folded, the places of relative positions (65,536 indices) are left to be worked out."""


_TIDY = Sequential(
    passes.RemoveUnusedNodesPass(),
    passes.RemoveUnusedOpsetsPass(),
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    passes.DeduplicateInitializersPass(size_limit=2**20),
    passes.CommonSubexpressionEliminationPass(),
)


class RoutedNetwork(nn.Module):
    """The network on a padded picture, given the tokens that take part in AC-MSA."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, active: Tensor | None = None) -> tuple[Tensor, ...]:
        return self.network.outputs(image, active)


class FrontEnd(nn.Module):
    """Any picture -> the padded picture, and the active tokens when a mask is given."""

    def __init__(self, purity: PurityMask | None) -> None:
        super().__init__()
        self.purity = purity

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        for axis in (2, 3):
            image = image.index_select(axis, _mirrored(image.shape[axis], image.device))
        if self.purity is None:
            return (image,)
        return image, (~self.purity(image)).reshape(-1).nonzero().squeeze(1)


class Router(nn.Module):
    """A padded picture -> its active tokens, as a list of fixed length and their number."""

    def __init__(self, purity: PurityMask) -> None:
        super().__init__()
        self.purity = purity

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pure = self.purity(image).reshape(-1, 1).int()
        active = category_order(category_rank(pure, 2)).long()
        return active, (1 - pure).sum(0, dtype=torch.int32)


def trace_network(network: Network, opset: int) -> onnx.ModelProto:
    """Trace ``outputs``: ``input`` float32 1 3 H W, ``active`` int64 n -> ``output``, ``attended``.

    H and W are multiples of 16, n is any number from 0 up. Without Pure-Pass there is no
    ``active``, without blocks that tokens leave no ``attended``.
    """
    height, width = TRACED_SIZE
    inputs = {INPUT: torch.zeros(1, 3, height, width)}
    shapes = {INPUT: _padded()}
    if network.config.pure_pass:
        inputs[ACTIVE] = torch.arange(height * width - 300)
        shapes[ACTIVE] = {0: Dim("tokens", min=0, max=2**24)}
    outputs = [OUTPUT] if network.config.blocks is None else [OUTPUT, ATTENDED]
    return _trace(RoutedNetwork(network), inputs, shapes, outputs, opset)


def trace_front_end(network: Network, opset: int) -> onnx.ModelProto:
    """Trace ``FrontEnd``: ``input`` float32 1 3 H W, any size from 8 up -> padded, active."""
    shape = {2: Dim("height", min=8, max=65536), 3: Dim("width", min=8, max=65536)}
    outputs = [PADDED, ACTIVE] if network.purity else [PADDED]
    inputs = {INPUT: torch.zeros(1, 3, 41, 75)}
    return _trace(FrontEnd(network.purity), inputs, {INPUT: shape}, outputs, opset)


def trace_router(network: Network, opset: int) -> onnx.ModelProto:
    """Trace ``Router``: ``input`` float32 1 3 H W -> ``active`` int64 H*W, ``count`` int32 1.

    H and W are multiples of 16. No output shape depends on the picture's content: engines can run
    it, as they cannot run NonZero. ValueError for a network without Pure-Pass.
    """
    if network.purity is None:
        raise ValueError("expected a network with Pure-Pass, got one without")
    height, width = TRACED_SIZE
    inputs = {INPUT: torch.zeros(1, 3, height, width)}
    return _trace(Router(network.purity), inputs, {INPUT: _padded()}, [ACTIVE, COUNT], opset)


def _padded() -> dict[int, Any]:
    """The dynamic axes of a padded picture."""
    rows, columns = Dim("rows", min=2, max=4096), Dim("columns", min=2, max=4096)
    return {2: GRID * rows, 3: GRID * columns}


def _mirrored(size: int, device: torch.device) -> Tensor:
    """Indices that pad ``size`` to a multiple of 16 by mirroring, the edge repeated."""
    place = torch.arange((size + GRID - 1) // GRID * GRID, device=device)
    return torch.where(place < size, place, 2 * size - 1 - place)


def _trace(
    module: nn.Module,
    inputs: dict[str, Tensor],
    shapes: dict[str, dict[int, Any]],
    outputs: list[str],
    opset: int,
) -> onnx.ModelProto:
    """Export ``module``; names of inputs in the order of its arguments."""
    module.eval()
    examples, dynamic = tuple(inputs.values()), tuple(shapes.values())
    with torch.no_grad(), _quiet(), _size_oblivious():
        program = torch.export.export(module, examples, dynamic_shapes=dynamic)
        exported = torch.onnx.export(
            program,
            opset_version=opset,
            input_names=list(inputs),
            output_names=outputs,
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        model = exported.model
        # Not onnxscript's optimize(): its rewrite rules take twice as long as the rest of the
        # export and find nothing here that these passes and ``surgery`` do not.
        onnxscript.optimizer.fold_constants(
            model, onnx_shape_inference=True, input_size_limit=_FOLD, output_size_limit=_FOLD
        )
        _TIDY(model)
    return onnx_ir.to_proto(model)


@contextlib.contextmanager
def _size_oblivious() -> Iterator[None]:
    """Trace 0 and 1 tokens as sizes like any other, so that max(1, groups) stays in the graph."""
    before = shape_config.backed_size_oblivious
    shape_config.backed_size_oblivious = True
    try:
        yield
    finally:
        shape_config.backed_size_oblivious = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own progress and its warnings about absent packages off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
