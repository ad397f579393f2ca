"""A recipe: which layers of a network run in which precision, with the ranges of those in INT8.

It is a TOML file that people read and edit. Layers are named by globs over module paths, so that
`layers.2.*.wqkv` is the same layers in every export.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from ppsr.models.config import MODEL_NAMES, SCALES, ModelName
from ppsr.models.errors import UsageError
from ppsr.runtime.files import write_atomically

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LayerPrecision = Literal["fp32", "fp16", "int8"]
Default = Literal["fp32", "fp16"]
T = TypeVar("T")

REMAKE = "make one with: ppsr-calibrate --data DIR -o recipe.toml"
HEADER = """\
# Precision of each layer, by name or glob: of several that match, the one with most letters holds.
# Made by ppsr-calibrate, applied by: ppsr-export --recipe FILE
"""


@dataclass(frozen=True)
class Recipe:
    """What ``ppsr-calibrate`` found. Raises UsageError for values that cannot be one."""

    model: ModelName
    scale: int
    weights_sha256: str
    """Of the checkpoint: ranges and errors of other weights say nothing."""
    layers: Mapping[str, LayerPrecision]
    """By glob over layer names; ``*`` also spans dots."""
    amax: Mapping[str, float]
    """Largest absolute value kept, by site (``<layer>/input``, ``<layer>/output``); above 0."""
    default: Default = "fp32"
    """Of all layers that no glob matches, and of all nodes between layers."""
    estimator: str = ""
    """How the ranges were chosen; "" where a person wrote the recipe."""
    max_psnr_drop: float | None = None
    """What was allowed, dB on held-out pictures; None: nothing was searched."""
    psnr_drop: float | None = None
    """What the mix lost there, dB of mean PSNR of Y, unrounded."""

    def __post_init__(self) -> None:
        _one_of(MODEL_NAMES, "model", self.model)
        _one_of(SCALES, "scale", self.scale)
        _one_of(get_args(Default), "default", self.default)
        for glob, precision in self.layers.items():
            _one_of(get_args(LayerPrecision), f"precision of {glob}", precision)
        for site, amax in self.amax.items():
            if not (_is_number(amax) and amax > 0):
                raise UsageError(f"expected an amax above 0 for {site}, got {amax!r}; {REMAKE}")

    def precision_of(self, layer: str) -> LayerPrecision:
        """Return the precision of a layer by its name.

        Of several globs that match, the one with most characters that are no wildcards holds.
        Raises UsageError where two such ask for different precisions.
        """
        matching = [glob for glob in self.layers if fnmatchcase(layer, glob)]
        if not matching:
            return self.default
        most = max(map(_letters, matching))
        best = [glob for glob in matching if _letters(glob) == most]
        if len({self.layers[glob] for glob in best}) > 1:
            raise UsageError(
                f"the recipe gives {layer} two precisions, by {' and '.join(sorted(best))}; "
                "name the layer itself too, or remove one"
            )
        return self.layers[best[0]]

    def require(
        self, layers: Iterable[str], model: str, scale: int, weights_sha256: str
    ) -> dict[str, LayerPrecision]:
        """Check the recipe against a network and return the precision of each of its layers.

        Raises UsageError where it is of another model, scale or weights, names a layer that does
        not exist, gives one two precisions, or lacks the range of the input of one in INT8.
        """
        for what, ours, theirs in (
            ("model", self.model, model),
            ("scale", self.scale, scale),
            ("weights", self.weights_sha256[:12], weights_sha256[:12]),
        ):
            if ours != theirs:
                raise UsageError(f"the recipe is for the {what} {ours}, got {theirs}; {REMAKE}")
        names = list(layers)
        for glob in self.layers:
            if not any(fnmatchcase(name, glob) for name in names):
                raise UsageError(
                    f"the recipe names {glob}, which is no layer of {model}; expected names such "
                    f"as {', '.join(names[:2])}"
                )
        chosen = {name: self.precision_of(name) for name in names}
        for name, precision in chosen.items():
            if precision == "int8" and f"{name}/input" not in self.amax:
                raise UsageError(
                    f"the recipe puts {name} in int8 without the range of {name}/input; {REMAKE}"
                )
        return chosen

    def to_text(self) -> str:
        """Spell it as TOML; the same recipe gives the same text."""
        head: dict[str, Any] = {
            key: value
            for key, value in vars(self).items()
            if key not in ("layers", "amax") and value is not None
        }
        tables = {"layers": self.layers, "amax": dict(sorted(self.amax.items()))}
        lines = [HEADER, *(f"{key} = {_spell(value)}" for key, value in head.items())]
        for name, table in tables.items():
            lines += ["", f"[{name}]"]
            lines += [f"{_spell(key)} = {_spell(value)}" for key, value in table.items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_text(cls, text: str, source: str = "the recipe") -> Recipe:
        """Read ``to_text`` back. ``source`` names the file in errors.

        Raises UsageError where it is no TOML, or a key is missing, unknown or holds another kind
        of value.
        """
        try:
            found = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"{source} is no recipe ({_line(error)}); {REMAKE}") from error
        if unknown := set(found) - set(_KINDS):
            raise UsageError(f"{source} has an unknown key {min(unknown)!r}; {REMAKE}")
        for key, (is_right, kind) in _KINDS.items():
            if key in found and not is_right(found[key]):
                raise UsageError(
                    f"expected {kind} as {key!r} in {source}, got {_short(found[key])}; {REMAKE}"
                )
            if key not in found and key in _NEEDED:
                raise UsageError(f"{source} lacks {key!r}; {REMAKE}")
        try:
            return cls(**found)
        except UsageError as error:
            raise UsageError(f"{source}: {error}") from error


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises UsageError where it cannot be read, or is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path} is no recipe (it is no UTF-8 text); {REMAKE}") from error
    return Recipe.from_text(text, str(path))


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe, all of it or nothing. Raises as ``write_atomically`` does."""
    write_atomically(path, recipe.to_text().encode())


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_table_of(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "model": (_is_text, "a text"),
    "scale": (lambda value: type(value) is int, "a whole number"),
    "weights_sha256": (_is_text, "a text"),
    "default": (_is_text, "a text"),
    "estimator": (_is_text, "a text"),
    "max_psnr_drop": (_is_number, "a number"),
    "psnr_drop": (_is_number, "a number"),
    "layers": (_is_table_of(_is_text), "a table of texts"),
    "amax": (_is_table_of(_is_number), "a table of numbers"),
}
_NEEDED = ("model", "scale", "weights_sha256", "default", "layers", "amax")


def _one_of(allowed: Iterable[T], name: str, value: object) -> None:
    choices = tuple(allowed)
    if value not in choices:
        raise UsageError(
            f"expected a {name} of {', '.join(map(str, choices))}, got {value!r}; {REMAKE}"
        )


def _letters(glob: str) -> int:
    return sum(character not in "*?" for character in glob)


def _spell(value: str | int | float) -> str:
    """JSON's texts are TOML's, as long as nothing is escaped by halves of a character."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
