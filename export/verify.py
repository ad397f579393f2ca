"""Parity: run an exported graph on real pictures and compare it with the eager network.

Category attention groups tokens by an argmax. Where two categories are nearly tied, the last bit of
a sum sorts a token elsewhere, 128 others are regrouped, and through 24 layers thousands follow: two
correct runs can end up 50 dB apart (eager FP32 and FP64 do: tests/show_ties.py). So the graph's
own categories are imposed on the eager network: then the outputs must agree closely, and each
category must be the eager network's own choice or nearly tied with it. That leaves nothing
unexplained. The PSNR between the free runs, which is what users see, is reported beside it. The
same holds for other choices of a network: which windows attend, which tokens exit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ppsr.models.errors import ParityError
from ppsr.models.pure_pass import active_tokens, pad_to_grid
from ppsr.models.registry import MODELS, Routing
from ppsr.runtime.artefact import ACTIVE, COUNT, INPUT, OUTPUT, Artefact
from ppsr.runtime.backend import Device
from ppsr.runtime.feed import feed_for, image_tensor
from ppsr.runtime.metrics import psnr
from ppsr.runtime.ort import open_session, providers_for

from .compose import ROUTED
from .graph_backend import category_tensors, choice_tensors, watched
from .precision import holds_fp16
from .reference import Choices, Reference, changed
from .rounding import PEAKS, round_fp16

MAX_GAP = 1e-4
"""How far from the best similarity, or the score that a choice turns on, relative to it, one may
lie and still count as tied."""

MAX_ABS_FP16 = 5e-3
"""Largest difference allowed between an FP16 graph and the FP32 network on equal categories."""

MIN_PSNR_FP16 = 40.0
"""dB between the outputs of an FP16 graph and the FP32 network, both free: a backstop, since a tie
alone can leave a small picture below 50 dB. What is strict is the bound on equal categories."""

MIN_PSNR_INT8 = 35.0
"""The same for a graph with layers in INT8 ("int8", "mixed"), which has no bound on equal
categories: what rounding to 8 bits costs is a matter of ranges and recipe, and is measured against
ground truth by ppsr-calibrate and ppsr-verify. A wrong scale falls below."""

MIN_PSNR_SCORES = 20.0
"""The same for networks that choose by scores what is computed, in any precision: a tie can change
whole windows, not single tokens, and where a network has not learnt yet all scores are close. What
is strict is the bound on equal choices."""

MAX_PEAK = 16_000.0
"""Largest absolute value allowed in an FP16 tensor: a quarter of what FP16 can hold."""


def min_psnr(precision: str, routing: Routing = "none") -> float:
    """Return what two free outputs must agree to, dB, where one is of a graph in ``precision``."""
    if routing == "scores":
        return MIN_PSNR_SCORES
    return MIN_PSNR_INT8 if precision in ("int8", "mixed") else MIN_PSNR_FP16


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
    """Share of the choices, such as categories of active tokens, over all layers, that are not
    those of the free eager run."""
    max_abs: float
    """Largest difference between the outputs once the choices are the same."""
    ties: int
    """Choices, over all layers, that are not the eager network's on the same features."""
    gap: float
    """The widest of these ties: how far a similarity lies below the winner's, or a score from the
    one that it turns on, relative to it."""
    peak: float | None = None
    """Largest absolute value of any FP16 tensor; None in FP32."""

    def to_json(self) -> dict[str, int | float | None]:
        """Spell it for JSON, which has no inf: ``psnr`` null means equal outputs."""
        return {**vars(self), "psnr": self.psnr if np.isfinite(self.psnr) else None}

    def failure(self, precision: str, atol: float, routing: Routing = "none") -> str | None:
        """Say what is wrong, or None. ``routing``: of the network."""
        needed = min_psnr(precision, routing)
        allowed = {"fp32": atol, "fp16": MAX_ABS_FP16}.get(precision, np.inf)
        if not np.isfinite(self.max_abs):
            return "the output is not finite"
        if precision == "fp32" and not self.gap <= MAX_GAP:
            return f"a category or choice is off by {self.gap:.1e}, no tie (up to {MAX_GAP:g})"
        if not self.max_abs <= allowed:
            return f"outputs differ by {self.max_abs:.2g}, allowed is {allowed:g}"
        if precision != "fp32" and not self.psnr >= needed:
            return f"outputs agree to {self.psnr:.1f} dB, needed are {needed:g}"
        if self.peak is not None and not self.peak <= MAX_PEAK:
            return f"an FP16 tensor reaches {self.peak:.0f}, allowed is {MAX_PEAK:.0f}"
        return None


def verify(
    model: onnx.ModelProto,
    artefact: Artefact,
    reference: Reference,
    pictures: Sequence[npt.NDArray[np.uint8]],
    atol: float = 1e-5,
    *,
    optimise: bool = True,
) -> list[Parity]:
    """Run every picture (uint8 H W 3) through the graph and the network.

    A graph runs as it is, but for FP16: every FP16 tensor is really rounded, which
    onnxruntime's CPU kernels do not do by themselves (see ``rounding``). Both runs read out
    categories on the way, so in the end the very bytes to publish run on the last picture. Raises
    ParityError at the first picture that fails.
    """
    run, routing = GraphRun(model, artefact, optimise=optimise), MODELS[artefact.model].routing
    reports = []
    for rgb in pictures:
        report = run.compare(reference, rgb)
        if problem := report.failure(artefact.precision, atol, routing):
            raise _fails(artefact, rgb, problem)
        reports.append(report)
    file = open_session(model.SerializeToString())
    (output,) = file.run([OUTPUT], feed_for(artefact, pictures[-1]))
    expected = reference.run(pictures[-1]).output
    agreement = psnr(_cropped(output, artefact, pictures[-1]), expected)
    if not agreement >= min_psnr(artefact.precision, routing):
        raise _fails(artefact, pictures[-1], f"the file itself agrees to {agreement:.1f} dB only")
    return reports


def verify_routing(
    model: onnx.ModelProto, artefact: Artefact, pictures: Sequence[npt.NDArray[np.uint8]]
) -> None:
    """Run every picture (uint8 H W 3) through a routing: its tokens must be those of the host.

    Raises ParityError at the first picture that fails.
    """
    assert artefact.pure_pass is not None
    session = open_session(model.SerializeToString())
    for rgb in pictures:
        padded = pad_to_grid(rgb)
        active, count = session.run([ACTIVE, COUNT], {INPUT: image_tensor(padded)})
        wanted = active_tokens(artefact.pure_pass.mask(padded))
        if len(active) != padded[..., 0].size or not np.array_equal(active[: count[0]], wanted):
            raise _fails(artefact, rgb, "it finds other tokens than the host")


class GraphRun:
    """A graph in onnxruntime, with its categories (and FP16 peaks) as further outputs."""

    def __init__(
        self,
        model: onnx.ModelProto,
        artefact: Artefact,
        *,
        optimise: bool = True,
        device: Device = "cpu",
        threads: int | None = None,
    ) -> None:
        """On the CPU an FP16 graph is rewritten to round (see ``rounding``); CUDA does round."""
        self.artefact = artefact
        self.tensors: list[str] = []
        """What ``peaks`` speaks of."""
        self.peaks: npt.NDArray[Any] | None = None
        """Largest absolute value of each of ``tensors`` over all runs so far."""
        if holds_fp16(model) and device == "cpu":
            model, self.tensors = round_fp16(model)
            optimise = False
        self.categories, self.decisions = category_tensors(model), choice_tensors(model)
        tensors = (*self.categories.values(), *self.decisions.values())
        made = {name for node in model.graph.node for name in node.output}
        shown = watched(model, [*tensors, *({ROUTED} & made)])
        self.session = open_session(
            shown.SerializeToString(), providers_for(device), threads, optimise
        )

    def compare(
        self,
        reference: Reference,
        rgb: npt.NDArray[np.uint8],
        got: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> Parity:
        """Run one picture through both. The network may be of any float dtype.

        ``got`` is what ``run`` returned for this picture, where it ran already. Raises ParityError
        where they do not route the same tokens, which is integer arithmetic, or choose elsewhere.
        """
        got = self.run(rgb) if got is None else got
        choices = self.chosen(got)
        free = same = reference.run(rgb)
        if not np.array_equal(got[ACTIVE], free.active):
            raise _fails(self.artefact, rgb, "it routes other tokens to category attention")
        sizes = {path: len(chosen) for path, chosen in free.choices.items()}
        if sizes != {path: len(chosen) for path, chosen in choices.items()}:
            raise _fails(self.artefact, rgb, "it chooses in other places, or another number")
        flipped = changed(choices, free.choices)
        if flipped:
            same = reference.run(rgb, choices)
        peak = None
        if self.tensors:
            self.peaks = np.maximum(got[PEAKS], 0 if self.peaks is None else self.peaks)
            peak = float(got[PEAKS].max())
        height, width = rgb.shape[:2]
        return Parity(
            height=height,
            width=width,
            active=len(free.active),
            psnr=psnr(got[OUTPUT].astype(np.float64), free.output.astype(np.float64)),
            flipped=flipped / max(1, sum(sizes.values())),
            max_abs=float(np.abs(got[OUTPUT] - same.output).max()),
            ties=same.ties,
            gap=same.gap,
            peak=peak,
        )

    def chosen(self, got: Mapping[str, npt.NDArray[Any]]) -> Choices:
        """Return, by module, what is chosen in what ``run`` returned.

        The graph knows the category of every token; those that take part are asked for theirs.
        """
        return {
            **{path: got[name].reshape(-1)[got[ACTIVE]] for path, name in self.categories.items()},
            **{path: got[name].reshape(-1) for path, name in self.decisions.items()},
        }

    def run(self, rgb: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """Run one picture uint8 H W 3 -> every output by name, cropped to S*H S*W, and ``active``.

        ``active`` holds the tokens it sends to category attention, wherever they were routed.
        """
        feed = feed_for(self.artefact, rgb)
        names = [output.name for output in self.session.get_outputs()]
        got = dict(zip(names, self.session.run(names, feed), strict=True))
        got[OUTPUT] = _cropped(got[OUTPUT], self.artefact, rgb)
        everyone = np.arange(pad_to_grid(rgb[..., 0]).size)
        got[ACTIVE] = got.pop(ROUTED, feed.get(ACTIVE, everyone))
        return got


def _cropped(
    output: npt.NDArray[Any], artefact: Artefact, rgb: npt.NDArray[np.uint8]
) -> npt.NDArray[Any]:
    height, width = (size * artefact.scale for size in rgb.shape[:2])
    return output[..., :height, :width]


def _fails(artefact: Artefact, rgb: npt.NDArray[np.uint8], problem: str) -> ParityError:
    height, width = rgb.shape[:2]
    return ParityError(
        f"{artefact.stem} does not do what the network does on a picture of {height} x {width}: "
        f"{problem}; nothing was written"
    )
