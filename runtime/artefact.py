"""What a model file says of itself: the metadata that export writes and every backend reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from ppsr.models.config import MODEL_NAMES, SCALES, ModelName, PurePass
from ppsr.models.errors import ArtefactError
from ppsr.models.pure_pass import GRID

Form = Literal["self-contained", "routed", "routing"]
"""The network and its routing in one graph, the network alone, the routing alone."""
Precision = Literal["fp32", "fp16", "int8", "mixed"]
"""Of what computes: "int8": linear layers and convolutions but the outermost; "mixed": by layer."""
Tuning = Literal["any", "onnxruntime", "openvino"]
"""What a graph is fastest on. Each is plain ONNX; for onnxruntime it holds Scans, which few run."""
T = TypeVar("T")

INPUT, ACTIVE, OUTPUT = "input", "active", "output"
"""Tensor names. ``input`` and ``output`` are what other super-resolution tools look for."""

ATTENDED = "attended"
"""Output of networks whose tokens leave: int32 1 1 H W, how many blocks attend to each token.

A token that a block leaves out is left out by all blocks after it.
"""

COUNT = "count"
"""Of a routing engine: int32, one element, how many entries of its output ``active`` are valid.

``active`` has H*W entries there, int64; the valid ones come first, in rising order.
"""


@dataclass(frozen=True)
class Artefact:
    """The identity of an exported model."""

    model: ModelName
    scale: int
    form: Form
    precision: Precision | Literal["unknown"]
    """"unknown": of a plan that came without its description."""
    opset: int
    weights_sha256: str
    version: str
    """Version of ppsr that made the file."""
    pure_pass: PurePass | None = None
    tuned_for: Tuning = "any"
    ratio: float | None = None
    """Share of the windows that attend; None: the network has no such number."""
    blocks: int | None = None
    """Attention blocks that tokens leave one after another; None: there is no such exit."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the network takes."""
        return (INPUT, ACTIVE) if self.takes_active else (INPUT,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it returns."""
        return (OUTPUT,) if self.blocks is None else (OUTPUT, ATTENDED)

    @property
    def tells_skipped(self) -> bool:
        """Whether it is known of each pixel what was skipped there."""
        return self.pure_pass is not None or self.blocks is not None

    @property
    def takes_active(self) -> bool:
        """Whether the graph has the input ``active``: routed, and with something to route."""
        return self.form == "routed" and self.pure_pass is not None

    @property
    def label(self) -> str:
        """The network in file names: with its ratio, ``camixer-atd-light-0.8``."""
        return self.model if self.ratio is None else f"{self.model}-{self.ratio:g}"

    @property
    def stem(self) -> str:
        """File name without suffix. One routing serves every scale and precision."""
        if self.form == "routing":
            return f"{self.label}_routing"
        routed = "_routed" if self.form == "routed" else ""
        tuned = "" if self.tuned_for == "any" else f"_{self.tuned_for}"
        return f"{self.label}_x{self.scale}_{self.precision}{routed}{tuned}"

    def to_metadata(self) -> dict[str, str]:
        """Spell the identity as ONNX ``metadata_props``: flat, strings only, no date."""
        kind = f"{self.form} {self.precision}"
        metadata = {
            "description": f"{self.label} x{self.scale} super-resolution, {kind}",
            "author": "ppsr",
            "license": "MIT",
            "task": "super-resolution",
            "version": self.version,
            "model": self.model,
            "scale": str(self.scale),
            "channels": "3",
            "stride": str(GRID),
            "batch": "1",
            "form": self.form,
            "precision": self.precision,
            "opset": str(self.opset),
            "tuned_for": self.tuned_for,
            "weights_sha256": self.weights_sha256,
            "pure_pass": json.dumps(self.pure_pass and asdict(self.pure_pass)),
        }
        if self.ratio is not None:
            metadata["ratio"] = str(self.ratio)
        if self.blocks is not None:
            metadata["blocks"] = str(self.blocks)
        return metadata

    def require_upscaling(self, source: str) -> None:
        """Raise ArtefactError for a routing, which alone makes no picture."""
        if self.form == "routing":
            raise ArtefactError(
                f"{source} finds active tokens and makes no picture; give the model beside it"
            )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> Artefact:
        """Read ``to_metadata`` back. ``source`` names the file in errors.

        Raises ArtefactError where a key is missing or holds something else.
        """

        def read(key: str, parse: Callable[[str], T]) -> T:
            fault, cause = f"lacks {key!r}", None
            if key in metadata:
                try:
                    return parse(metadata[key])
                except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
                    fault, cause = f"has a garbled {key!r}", error
            raise ArtefactError(
                f"{source} was not made by ppsr-export (its metadata {fault}); "
                "make a model file with: ppsr-export --scale 2"
            ) from cause

        return cls(
            model=read("model", _one_of(MODEL_NAMES)),
            scale=int(read("scale", _one_of(tuple(map(str, SCALES))))),
            form=read("form", _one_of(get_args(Form))),
            precision=read("precision", _one_of(get_args(Precision))),
            opset=read("opset", int),
            weights_sha256=read("weights_sha256", str),
            version=read("version", str),
            pure_pass=read("pure_pass", _settings),
            # Files of ppsr 0.1 before this key were made for any runtime.
            tuned_for=read("tuned_for", _one_of(get_args(Tuning)))
            if "tuned_for" in metadata
            else "any",
            ratio=read("ratio", float) if "ratio" in metadata else None,
            blocks=read("blocks", int) if "blocks" in metadata else None,
        )


def _one_of(allowed: tuple[Any, ...]) -> Callable[[str], Any]:
    return lambda value: allowed[allowed.index(value)]


def _settings(text: str) -> PurePass | None:
    """Read the settings back: all of them; JSON has no tuples."""
    settings = json.loads(text)
    if settings is None:
        return None
    if set(settings) != {field.name for field in fields(PurePass)}:
        raise ValueError(settings)
    return PurePass(**{**settings, "centres": tuple(map(tuple, settings["centres"]))})
