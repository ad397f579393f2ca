"""What a verification runs side by side: the eager network, a graph, a file as ppsr-run runs it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import torch

from ppsr.models import build
from ppsr.models.errors import ArtefactError, UsageError
from ppsr.models.pure_pass import GRID, active_tokens, pad_to_grid
from ppsr.runtime.artefact import ACTIVE, OUTPUT, Artefact
from ppsr.runtime.backend import Backend, Device
from ppsr.runtime.canvas import Canvas
from ppsr.runtime.eager import torch_settings
from ppsr.runtime.pixels import ArrayPixels
from ppsr.runtime.runner import Runner
from ppsr.runtime.sidecar import Size
from ppsr.runtime.upscaler import open_backend

from .reference import Choices, Reference
from .verify import GraphRun, Parity

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """One picture through one of them."""

    output: npt.NDArray[Any]
    """float S*H S*W 3, neither clamped nor rounded."""
    active: npt.NDArray[np.int64]
    """Raster indices, in the picture padded to the grid, of the tokens in category attention."""
    tokens: int
    """Of the padded picture: all there are."""
    choices: Choices | None = None
    """By module; None where they cannot be seen."""


class Contestant(Protocol):
    """Something that makes pictures larger, and shows more than the picture."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    @property
    def artefact(self) -> Artefact:
        """Which network it is."""

    @property
    def device(self) -> str:
        """Where it runs: "CPU" or "CUDA"."""

    @property
    def least(self) -> Size:
        """The smallest picture it takes, height and width."""

    def run(self, rgb: Rgb) -> Run:
        """Run a picture uint8 H W 3 of at least ``least``."""

    def close(self) -> None:
        """Free what is held."""


class EagerContestant:
    """The network as published, in FP32 and on the CPU: always the same, whatever the machine."""

    device = "CPU"
    least = (GRID, GRID)

    def __init__(self, like: Artefact, weights: str | Path, threads: int | None) -> None:
        """Build the network that an artefact claims to be, from "default" or a checkpoint.

        Raises CheckpointError for what is no checkpoint or has another scale, UsageError where it
        holds other weights than the artefact was made from.
        """
        network = build(like.model, like.scale, weights, pure_pass=like.pure_pass, ratio=like.ratio)
        shipped = weights == "default"
        if network.weights_sha256 != like.weights_sha256:
            raise UsageError(
                f"the artefact was made from the weights {like.weights_sha256[:12]}, got "
                f"{network.weights_sha256[:12]} ({'the shipped ones' if shipped else weights}); "
                "name the checkpoint it was made from with --weights"
            )
        self.name = f"{like.model} in torch, {'shipped weights' if shipped else Path(weights).name}"
        self.artefact = like
        self.network, self._threads = network, threads
        self.last = Reference(network)
        """Remembers the run of the last picture."""

    def run(self, rgb: Rgb) -> Run:
        """Run the network free; its mask is the one that the network itself computes."""
        self.last = Reference(self.network)
        with torch_settings(self._threads):
            eager = self.last.run(rgb)
            active = eager.active if self.network.purity is None else self._active(rgb)
        return Run(_picture(eager.output), active, _tokens(rgb), eager.choices)

    def compare(self, graph: GraphRun, rgb: Rgb, got: dict[str, npt.NDArray[Any]]) -> Parity:
        """Impose the choices of a graph on the network: see ``verify``."""
        with torch_settings(self._threads):
            return graph.compare(self.last, rgb, got)

    def close(self) -> None:
        """Do nothing: there is only memory."""

    def _active(self, rgb: Rgb) -> npt.NDArray[np.int64]:
        assert self.network.purity is not None
        image = torch.from_numpy(pad_to_grid(rgb)).permute(2, 0, 1).unsqueeze(0).float() / 255
        return active_tokens(self.network.purity(image)[0].numpy())


class FileContestant:
    """A model file as ppsr-run runs it: what an engine is, and an ONNX file in its very bytes."""

    def __init__(self, path: Path, device: Device, threads: int | None) -> None:
        """Load the file. Raises as ``Upscaler.open`` does."""
        self.name = path.name
        self._backend: Backend = open_backend(path, device, threads)
        self.artefact, self.device = self._backend.artefact, self._backend.device
        sizes = (profile.min for profile in self._backend.profiles)
        self.least: Size = min(sizes, key=math.prod, default=(GRID, GRID))

    def run(self, rgb: Rgb) -> Run:
        """Run it on the padded picture. A graph that routes itself does not tell its tokens."""
        settings = self.artefact.pure_pass
        canvas = Canvas(ArrayPixels(rgb))
        (plane,) = canvas.planes(np.arange(canvas.height))
        pure = settings.mask(pad_to_grid(rgb)) if settings and self._backend.wants_active else None
        output, found, _ = Runner(self._backend).run(plane, pure)
        tokens = _tokens(rgb)
        active = np.arange(tokens) if settings is None or found is None else active_tokens(found)
        height, width = (size * self.artefact.scale for size in rgb.shape[:2])
        return Run(output[:height, :width], active, tokens)

    def close(self) -> None:
        """Free the model."""
        self._backend.close()


class GraphContestant:
    """An ONNX file as a graph whose choices show, FP16 really rounded (see ``rounding``)."""

    least = (GRID, GRID)

    def __init__(self, path: Path, data: bytes, device: Device, threads: int | None) -> None:
        """Load ``data``, what ``path`` holds. Raises as ``Upscaler.open`` does."""
        self.file = FileContestant(path, device, threads)
        self.name, self.artefact, self.device = self.file.name, self.file.artefact, self.file.device
        try:
            self.graph = GraphRun(
                onnx.ModelProto.FromString(data),
                self.artefact,
                device="cuda" if self.device == "CUDA" else "cpu",
                threads=threads,
            )
        except onnx.shape_inference.InferenceError as error:
            self.file.close()
            raise ArtefactError(f"{path} is no sound graph; export it again") from error
        self.got: dict[str, npt.NDArray[Any]] = {}
        """Every output of the last run."""

    def run(self, rgb: Rgb) -> Run:
        """Run the graph; a routed one is given the tokens that the host routes."""
        self.got = self.graph.run(rgb)
        choices = self.graph.chosen(self.got)
        return Run(_picture(self.got[OUTPUT]), self.got[ACTIVE], _tokens(rgb), choices)

    def close(self) -> None:
        """Free the file."""
        self.file.close()


def _tokens(rgb: Rgb) -> int:
    return pad_to_grid(rgb[..., 0]).size


def _picture(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """1 3 H W -> H W 3."""
    picture: npt.NDArray[Any] = output[0].transpose(1, 2, 0)
    return picture
