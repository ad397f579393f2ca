"""What lies beside a model file, in ``<file>.json``: its identity, checked before a plan is loaded.

A plan holds nothing of ours (other loaders would refuse it), so all that is known of it is here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ppsr.models.errors import ArtefactError

from .artefact import Artefact

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
SHORT: Mapping[Flavour, str] = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
"""Each flavour in file names."""
MODULES: Mapping[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""What is imported for it: two modules with one interface."""
EXTRAS: Mapping[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
"""The extra of ppsr that installs it."""

Size = tuple[int, int]
"""Height and width of a low-resolution picture."""
T = TypeVar("T")


@dataclass(frozen=True)
class ShapeRange:
    """What one optimisation profile of an engine takes: from ``min`` to ``max``, best at ``opt``.

    Heights and widths are those of the padded picture, multiples of 16.
    """

    min: Size
    opt: Size
    max: Size
    tokens: tuple[int, int, int] | None = None
    """Active tokens: min, opt, max; None where the graph has no such input."""

    def holds(self, size: Size, tokens: int | None = None) -> bool:
        """Tell whether a padded picture of this size fits, with so many active tokens."""
        if tokens is not None and self.tokens and not self.tokens[0] <= tokens <= self.tokens[2]:
            return False
        return all(a <= b <= c for a, b, c in zip(self.min, size, self.max, strict=True))

    def to_json(self) -> dict[str, list[int]]:
        """Spell it for JSON; ``tokens`` is left out where it is None."""
        return {name: list(value) for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Plan:
    """What only an engine has: the software and the GPU it was built for."""

    flavour: Flavour
    flavour_version: str
    """Of the TensorRT that built it, in full: no other version loads it."""
    sha256: str
    """Of the plan file."""
    gpu_name: str | None = None
    """None where it was built ahead of time, for any GPU that the flavour supports."""
    compute_capability: str | None = None
    """As "8.9"; None as above."""


@dataclass(frozen=True)
class Sidecar:
    """The content of ``<file>.json``."""

    artefact: Artefact
    onnx_sha256: str
    """Of the ONNX file itself; beside a plan, of the ONNX file that it was built from."""
    date: str = ""
    """When the file was made, ISO 8601."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that took part."""
    profiles: tuple[ShapeRange, ...] = ()
    parity: tuple[Mapping[str, Any], ...] = ()
    """What the export measured, one row for each picture."""
    plan: Plan | None = None
    """None beside an ONNX file."""
    verification: Mapping[str, Any] | None = None
    """What ppsr-verify measured last, and whether that was enough; None: it never ran."""

    def to_text(self) -> str:
        """Spell it as strict JSON, one flat object, without NaN or inf."""
        content: dict[str, Any] = dict(self.artefact.to_metadata())
        if self.plan is not None:
            content |= {
                "flavour": self.plan.flavour,
                "flavour_version": self.plan.flavour_version,
                "gpu_name": self.plan.gpu_name,
                "compute_capability": self.plan.compute_capability,
                "plan_sha256": self.plan.sha256,
            }
        content |= {
            "onnx_sha256": self.onnx_sha256,
            "date": self.date,
            "versions": dict(self.versions),
            "profiles": [profile.to_json() for profile in self.profiles],
            "parity": [dict(row) for row in self.parity],
        }
        if self.verification is not None:
            content["verification"] = dict(self.verification)
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_text(cls, text: str, source: str) -> Sidecar:
        """Read ``to_text`` back. ``source`` names the file in errors. Raises ArtefactError."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _foreign(source, "it is no JSON") from error
        if not isinstance(content, dict):
            raise _foreign(source, "it is no JSON object")

        def read(key: str, parse: Callable[[Any], T]) -> T:
            try:
                return parse(content[key])
            except KeyError:
                raise _foreign(source, f"it lacks {key!r}") from None
            except (TypeError, ValueError) as error:
                raise _foreign(source, f"it has a garbled {key!r}") from error

        plan = None
        if "plan_sha256" in content:
            plan = Plan(
                flavour=read("flavour", _flavour),
                flavour_version=read("flavour_version", _text),
                sha256=read("plan_sha256", _text),
                gpu_name=read("gpu_name", _text_or_none),
                compute_capability=read("compute_capability", _text_or_none),
            )
        return cls(
            artefact=Artefact.from_metadata(content, source),
            onnx_sha256=read("onnx_sha256", _text),
            date=read("date", _text),
            versions=read("versions", dict),
            profiles=read("profiles", lambda rows: tuple(map(_range, rows))),
            parity=read("parity", tuple),
            plan=plan,
            verification=read("verification", _object) if "verification" in content else None,
        )


def sidecar_path(path: Path) -> Path:
    """Return where the description of a model file lies: ``<file>.json`` beside it."""
    return path.with_name(f"{path.name}.json")


def read_sidecar(path: Path) -> Sidecar | None:
    """Read what lies beside the model file ``path``; None where nothing does.

    Raises ArtefactError where it cannot be read or is something else.
    """
    beside = sidecar_path(path)
    try:
        return Sidecar.from_text(beside.read_text(encoding="utf-8"), str(beside))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtefactError(f"cannot read {beside}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _foreign(str(beside), "it is no text") from error


def sha256(data: bytes) -> str:
    """Return the hash of a file's content as sidecars spell it."""
    return hashlib.sha256(data).hexdigest()


def plan_stem(artefact: Artefact, plan: Plan) -> str:
    """File name of a plan, without suffix: ``pp-atd-light_x2_fp16_trt11.4.0_h200``.

    It spells what differs between the plans that one folder may hold side by side, so that none
    takes another's place: network, precision, flavour, version, and the GPU where it is bound to
    one. The rest (shapes, hashes) is in the sidecar, which is what is checked; names are never
    read back. Plans are always of the routed form.
    """
    version = ".".join(plan.flavour_version.split(".")[:3])
    parts = [artefact.label, f"x{artefact.scale}", artefact.precision]
    parts.append(f"{SHORT[plan.flavour]}{version}")
    if plan.gpu_name is not None:
        name = plan.gpu_name.lower().removeprefix("nvidia ")
        parts.append(re.sub(r"[^a-z0-9]+", "-", name).strip("-"))
    return "_".join(parts)


def routing_path(path: Path) -> Path:
    """Return where the routing engine of a plan lies: ``<stem>_routing.plan`` beside it."""
    return path.with_name(f"{path.stem}_routing{path.suffix}")


def _foreign(source: str, fault: str) -> ArtefactError:
    return ArtefactError(f"{source} was not made by ppsr-export ({fault}); export the model again")


def _flavour(value: Any) -> Flavour:
    return FLAVOURS[FLAVOURS.index(value)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _range(row: Any) -> ShapeRange:
    low, best, high = (_ints(row[name], 2) for name in ("min", "opt", "max"))
    tokens = _ints(row["tokens"], 3) if "tokens" in row else None
    return ShapeRange(low, best, high, tokens)


def _ints(values: Sequence[Any], count: int) -> Any:
    """Read a list of ``count`` ints as a tuple."""
    if len(values) != count or any(type(value) is not int for value in values):
        raise ValueError(values)
    return tuple(values)
