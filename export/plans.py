"""Plan files: the engine of a routed graph, and beside it the one that finds the active tokens."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from ppsr.models.errors import PpsrError
from ppsr.models.registry import MODELS
from ppsr.runtime.sidecar import (
    Flavour,
    Plan,
    Sidecar,
    plan_stem,
    routing_path,
    sha256,
    sidecar_path,
)

from .engine import Built, OnPhase, build_plan, list_layers, tell_layers
from .flavour import gpu_at_hand
from .layers import LayerInfo, require_fp16, require_int8, to_json
from .options import ExportOptions


@dataclass(frozen=True)
class Planned:
    """An engine, not yet on the disk."""

    path: Path
    sidecar: Sidecar
    layers: tuple[LayerInfo, ...]
    files: Mapping[Path, bytes]
    """Everything to write: plans, their descriptions, the list of layers where it is wanted."""


def make_plans(
    options: ExportOptions,
    flavour: Flavour,
    network: tuple[onnx.ModelProto, Sidecar],
    router: tuple[onnx.ModelProto, Sidecar] | None,
    on_phase: OnPhase,
) -> Planned:
    """Build from the routed graph and from its router (None: there is nothing to route).

    Each comes with the sidecar of its ONNX file. Raises ParityError where FP16 or INT8 was
    asked for and the network has something else, PpsrError where TensorRT refuses,
    KeyboardInterrupt after Ctrl-C.
    """
    model, described = network
    takes_active = described.artefact.takes_active
    profiles = [profile.shape_range(takes_active) for profile in options.profiles]
    if options.precision == "fp16":
        require_fp16(list_layers(model, flavour), MODELS[options.model].islands)
    if options.precision == "int8":
        require_int8(list_layers(model, flavour))
    built = build_plan(model, profiles, flavour, on_phase, detailed=options.inspect)
    sidecar = _described(described, built, flavour)
    assert sidecar.plan is not None
    path = options.output / f"{plan_stem(sidecar.artefact, sidecar.plan)}.plan"
    files = _files(path, built, sidecar)
    if router is not None:
        pictures = [replace(profile, tokens=None) for profile in profiles]
        routing = build_plan(router[0], pictures, flavour, on_phase)
        files |= _files(routing_path(path), routing, _described(router[1], routing, flavour))
    if options.inspect:
        files[layers_path(path)] = to_json(built.layers, _inspected(built, flavour)).encode()
    return Planned(path, sidecar, built.layers, files)


def layers_path(plan: Path) -> Path:
    """Return where the list of a plan's layers lies: ``<plan>.layers.json`` beside it."""
    return plan.with_name(f"{plan.name}.layers.json")


def _inspected(built: Built, flavour: Flavour) -> Any:
    """What the engine inspector tells; it needs a GPU that the engine runs on."""
    if gpu_at_hand() is None:
        return "not inspected: there is no GPU"
    try:
        return tell_layers(built.plan, flavour)
    except PpsrError as error:  # The engine may be for another GPU; it is written all the same.
        return f"not inspected: {error}"


def _described(of_onnx: Sidecar, built: Built, flavour: Flavour) -> Sidecar:
    """The plan's sidecar from that of the ONNX file it was built from."""
    # TensorRT for RTX builds ahead of time, for every GPU it knows; TensorRT for the one it sees.
    gpu = gpu_at_hand() if flavour == "tensorrt" else None
    plan = Plan(
        flavour=flavour,
        flavour_version=built.version,
        sha256=sha256(built.plan),
        gpu_name=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
    )
    return replace(of_onnx, date=now(), profiles=built.profiles, plan=plan)


def _files(path: Path, built: Built, sidecar: Sidecar) -> dict[Path, bytes]:
    return {path: built.plan, sidecar_path(path): sidecar.to_text().encode()}


def now() -> str:
    """Return the time as sidecars spell it, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
