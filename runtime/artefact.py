"""What a model file says of itself: the metadata that export writes and every backend reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ppsr.models.config import MODEL_NAMES, SCALES, ModelName, PurePass
from ppsr.models.errors import ArtefactError
from ppsr.models.pure_pass import GRID

Form = Literal["self-contained", "routed"]
Precision = Literal["fp32", "fp16"]

INPUT, ACTIVE, OUTPUT = "input", "active", "output"
"""Tensor names. ``input`` and ``output`` are what other super-resolution tools look for."""


@dataclass(frozen=True)
class Artefact:
    """The identity of an exported model."""

    model: ModelName
    scale: int
    form: Form
    precision: Precision
    opset: int
    weights_sha256: str
    version: str
    """Version of ppsr that made the file."""
    pure_pass: PurePass | None = None

    @property
    def stem(self) -> str:
        """File name without suffix."""
        routed = "_routed" if self.form == "routed" else ""
        return f"{self.model}_x{self.scale}_{self.precision}{routed}"

    def to_metadata(self) -> dict[str, str]:
        """Spell the identity as ONNX ``metadata_props``: flat, strings only, no date."""
        kind = f"{self.form} {self.precision}"
        return {
            "description": f"{self.model} x{self.scale} super-resolution, {kind}",
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
            "weights_sha256": self.weights_sha256,
            "pure_pass": json.dumps(self.pure_pass and asdict(self.pure_pass)),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> Artefact:
        """Read ``to_metadata`` back. ``source`` names the file in errors.

        Raises ArtefactError where a key is missing or holds something else.
        """
        try:
            settings: dict[str, Any] | None = json.loads(metadata["pure_pass"])
            if settings is not None:
                settings["centres"] = tuple(tuple(row) for row in settings["centres"])
            artefact = cls(
                model=_one_of(metadata["model"], MODEL_NAMES),
                scale=_one_of(int(metadata["scale"]), SCALES),
                form=_one_of(metadata["form"], get_args(Form)),
                precision=_one_of(metadata["precision"], get_args(Precision)),
                opset=int(metadata["opset"]),
                weights_sha256=metadata["weights_sha256"],
                version=metadata["version"],
                pure_pass=PurePass(**settings) if settings is not None else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(
                f"{source} was not made by ppsr-export (its metadata lacks or garbles {error}); "
                "make a model file with: ppsr-export --scale 2"
            ) from error
        return artefact


def _one_of(value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ValueError(value)
    return value
