"""The folder of a run: what is needed to go on after a kill, and the weights to use."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ppsr.models.errors import UsageError
from ppsr.runtime.files import write_atomically

from .options import TrainOptions

STATE, WEIGHTS = "state.pt", "weights.safetensors"


@dataclass
class State:
    """A run between two steps."""

    options: TrainOptions
    step: int
    """Steps done."""
    seconds: float
    """Training time so far."""
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: list[dict[str, Any]]


def save_state(folder: Path, state: State) -> None:
    """Write ``state.pt`` atomically."""
    buffer = io.BytesIO()
    torch.save({**vars(state), "options": state.options.to_dict()}, buffer)
    write_atomically(folder / STATE, buffer.getvalue())


def load_state(folder: Path) -> State:
    """Read ``state.pt`` back. No code in it is run.

    Raises UsageError where there is none, or one that cannot be read.
    """
    path = folder / STATE
    if not path.is_file():
        raise UsageError(f"expected the folder of a run to resume, found no {path}")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        options = TrainOptions.from_dict(values.pop("options"))
        return State(options=options, **values)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"{path} cannot be resumed ({reason}); start a new run") from error


def save_weights(folder: Path, state: State, hardware: str) -> Path:
    """Write the averaged weights as ``weights.safetensors``, with how they came about."""
    made = {
        "step": state.step,
        "minutes": round(state.seconds / 60, 1),
        "hardware": hardware,
        **state.options.to_dict(),
    }
    tensors = {name: value.cpu().contiguous() for name, value in state.average.items()}
    data = safetensors.torch.save(tensors, {"ppsr-train": json.dumps(made)})
    write_atomically(folder / WEIGHTS, data)
    return folder / WEIGHTS
