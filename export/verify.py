"""Parity: run an exported graph on real pictures and compare it with the eager network.

Category attention groups tokens by an argmax. Where two categories are nearly tied, the last bit of
a sum sorts a token elsewhere, 128 others are regrouped, and through 24 layers thousands follow: two
correct FP32 runs can end up 50 dB apart (the eager network in FP32 and in FP64 do). So the graph's
own categories are imposed on the eager network: then the outputs must agree closely, and each
category must be the eager network's own choice or nearly tied with it. That leaves nothing
unexplained. The PSNR between the free runs, which is what users see, is reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ppsr.models.atd import ATD
from ppsr.models.category_attention import CategoryAttention
from ppsr.models.errors import ParityError
from ppsr.models.pure_pass import active_tokens, pad_to_grid
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT, Artefact
from ppsr.runtime.metrics import psnr
from ppsr.runtime.ort import open_session

from .rounding import PEAKS, round_fp16

MAX_GAP = 1e-4
"""How far below the best similarity, relative to it, one may lie and still count as tied."""

MIN_PSNR_FP16 = 45.0
"""dB between the outputs of an FP16 graph and the FP32 network, both free."""

MAX_PEAK = 16_000.0
"""Largest absolute value allowed in an FP16 tensor: a quarter of what FP16 can hold."""


@dataclass(frozen=True)
class Parity:
    """One picture through both."""

    height: int
    width: int
    active: int
    """Tokens in category attention."""
    psnr: float
    """dB between the outputs of the free runs, not clamped; inf where they are equal."""
    flipped: float
    """Share of active tokens, over all layers, in another category than in the free eager run."""
    max_abs: float
    """Largest difference between the outputs once the categories are the same."""
    ties: int
    """Categories, over all layers, that are not the eager network's choice on the same features."""
    gap: float
    """The widest of these ties: how far the similarity lies below the winner's, relative to it."""
    peak: float | None = None
    """Largest absolute value of any FP16 tensor; None in FP32."""

    def to_json(self) -> dict[str, int | float | None]:
        """Spell it for JSON, which has no inf: ``psnr`` null means equal outputs."""
        return {**vars(self), "psnr": self.psnr if np.isfinite(self.psnr) else None}

    def failure(self, precision: str, atol: float) -> str | None:
        """Say what is wrong, or None."""
        if not np.isfinite(self.max_abs):
            return "the output is not finite"
        if precision == "fp32":
            if not self.gap <= MAX_GAP:
                return f"a token's category is off by {self.gap:.1e}, no tie (up to {MAX_GAP:g})"
            if not self.max_abs <= atol:
                return f"outputs differ by {self.max_abs:.2g}, allowed is {atol:g}"
        elif not self.psnr >= MIN_PSNR_FP16:
            return f"outputs agree to {self.psnr:.1f} dB, needed are {MIN_PSNR_FP16:g}"
        if self.peak is not None and not self.peak <= MAX_PEAK:
            return f"an FP16 tensor reaches {self.peak:.0f}, allowed is {MAX_PEAK:.0f}"
        return None


def verify(
    model: onnx.ModelProto,
    artefact: Artefact,
    network: ATD,
    pictures: Sequence[npt.NDArray[np.uint8]],
    atol: float = 1e-5,
    *,
    optimise: bool = True,
) -> list[Parity]:
    """Run every picture (uint8 H W 3) through the graph and the network.

    An FP32 graph runs as it is. An FP16 graph runs with every FP16 tensor really rounded, which
    onnxruntime's CPU kernels do not do by themselves (see ``rounding``). Raises ParityError at the
    first picture that fails.
    """
    run = GraphRun(model, artefact, optimise=optimise)
    reports = []
    for rgb in pictures:
        report = run.compare(network, rgb)
        if problem := report.failure(artefact.precision, atol):
            raise ParityError(
                f"{artefact.stem} does not do what the network does on a picture of "
                f"{report.height} x {report.width}: {problem}; nothing was written"
            )
        reports.append(report)
    return reports


class GraphRun:
    """A graph in onnxruntime, with its categories (and FP16 peaks) as further outputs."""

    def __init__(
        self, model: onnx.ModelProto, artefact: Artefact, *, optimise: bool = True
    ) -> None:
        self.artefact = artefact
        self.tensors: list[str] = []
        """What ``peaks`` speaks of."""
        self.peaks: npt.NDArray[Any] | None = None
        """Largest absolute value of each of ``tensors`` over all runs so far."""
        if artefact.precision == "fp16":
            model, self.tensors = round_fp16(model)
            optimise = False
        watched, self.categories = _watch_categories(model)
        self.session = open_session(watched.SerializeToString(), optimise=optimise)

    def compare(self, network: ATD, rgb: npt.NDArray[np.uint8]) -> Parity:
        """Run one picture through both. The network may be of any float dtype.

        Raises ParityError where they do not route the same number of tokens.
        """
        got = self.run(rgb)
        categories = [got[name].reshape(-1) for name in self.categories]
        free = same = _eager(network, rgb)
        routed = free.active + (self.artefact.pure_pass is not None)  # One spare, see ``Groups``.
        if any(found.size != routed for found in categories):
            raise ParityError(
                f"{self.artefact.stem} sends {categories[0].size} tokens to category attention, "
                f"expected are {routed}; export again from the same network"
            )
        changed = sum(
            int((theirs[: ours.size] != ours).sum())
            for theirs, ours in zip(categories, free.categories, strict=True)
        )
        if changed:
            same = _eager(network, rgb, categories)
        peak = None
        if self.tensors:
            self.peaks = np.maximum(got[PEAKS], 0 if self.peaks is None else self.peaks)
            peak = float(got[PEAKS].max())
        height, width = rgb.shape[:2]
        return Parity(
            height=height,
            width=width,
            active=free.active,
            psnr=psnr(got[OUTPUT].astype(np.float64), free.output.astype(np.float64)),
            flipped=changed / max(1, free.active * len(categories)),
            max_abs=float(np.abs(got[OUTPUT] - same.output).max()),
            ties=same.ties,
            gap=same.gap,
            peak=peak,
        )

    def run(self, rgb: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Run one picture uint8 H W 3 -> every output by name, cropped to S*H S*W."""
        height, width = rgb.shape[:2]
        feed: dict[str, npt.NDArray[Any]] = {}
        if self.artefact.form == "routed":
            rgb = pad_to_grid(rgb)
            if settings := self.artefact.pure_pass:
                feed[ACTIVE] = active_tokens(settings.mask(rgb))
        feed[INPUT] = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32) / 255
        names = [output.name for output in self.session.get_outputs()]
        got = dict(zip(names, self.session.run(names, feed), strict=True))
        s = self.artefact.scale
        got[OUTPUT] = got[OUTPUT][..., : s * height, : s * width]
        return got


def _watch_categories(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """Make the category of every layer's tokens an output."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [node.output[0] for node in watched.graph.node if node.op_type == "ArgMax"]
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in names
    )
    return watched, names


@dataclass
class _EagerRun:
    """The eager network on one picture."""

    output: npt.NDArray[Any]
    """1 3 S*H S*W."""
    categories: list[npt.NDArray[np.int64]]
    """By layer: the category of each active token that its similarity decides."""
    active: int
    ties: int = 0
    gap: float = 0.0


@torch.no_grad()
def _eager(
    network: ATD,
    rgb: npt.NDArray[np.uint8],
    imposed: Sequence[npt.NDArray[np.int64]] | None = None,
) -> _EagerRun:
    """Run the network; ``imposed`` categories, by layer, take the place of its own."""
    padded, settings = pad_to_grid(rgb), network.config.pure_pass
    pure = settings.mask(padded) if settings else np.zeros(padded.shape[:2], bool)
    index = torch.from_numpy(active_tokens(pure))
    run = _EagerRun(np.empty(0), [], len(index))

    def watch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        qkv, similarity, *rest = inputs
        found = similarity[0].index_select(0, index)
        own = found.argmax(-1)
        layer = len(run.categories)
        run.categories.append(own.numpy())
        if imposed is None or not len(index):
            return inputs
        given = torch.from_numpy(imposed[layer][: len(index)]).unsqueeze(1)
        gap = 1 - (found.gather(1, given) / found.amax(1, keepdim=True))
        run.ties += int((given.squeeze(1) != own).sum())
        run.gap = max(run.gap, float(gap.max()))
        one_hot = torch.zeros_like(similarity)
        one_hot[0, index] = torch.zeros_like(found).scatter(1, given, 1)
        return (qkv, one_hot, *rest)

    hooks = [
        module.register_forward_pre_hook(watch)
        for module in network.modules()
        if isinstance(module, CategoryAttention)
    ]
    try:
        image = torch.from_numpy(rgb).permute(2, 0, 1).unsqueeze(0)
        run.output = network(image.to(network.conv_first.weight.dtype) / 255).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return run
