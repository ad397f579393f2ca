"""Reading published checkpoints: what is in the file decides, and no code in it is ever run.

A ``.pth`` goes through ``torch.load(weights_only=True)``, a ``.safetensors`` through its own
parser; the first bytes tell which. Every refusal is a ``CheckpointError`` of one line.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from .errors import CheckpointError
from .families import ADVICE, config_of, listed, model_in
from .registry import MODELS

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_checkpoint(
    path: str | Path, scale: int | None = None, name: str | None = None
) -> dict[str, Tensor]:
    """Read a ``.pth`` or ``.safetensors`` file of one of our networks -> parameters by name.

    ``params_ema`` is preferred over ``params`` over a bare dict; a ``module.`` prefix and what the
    network never uses are dropped. What comes back is finite float32 on the CPU and loads strictly.
    Raises CheckpointError for anything else, and for another scale than ``scale`` or another
    network than ``name`` (None: any).
    """
    with _naming(path):
        state = _unwrap(_read(Path(path)))
        model = model_in(state)
        state = {
            key: _as_float32(key, tensor)
            for key, tensor in state.items()
            if not re.search(model.unused, key)
        }
        found = config_of(state).scale
        if name is not None and MODELS[name].title != model.title:
            raise CheckpointError(
                f"expected weights of {MODELS[name].title}, got weights of {model.title}; "
                "name that network, or another file"
            )
        if scale not in (None, found):
            raise CheckpointError(
                f"expected weights for x{scale}, got weights for x{found}; "
                f"ask for scale {found} or pass the file for x{scale}"
            )
        return state


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) over names, shapes and float32 values, in the order of the names.

    The container makes no difference: a ``.pth`` and a ``.safetensors`` of one network agree.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the file's name before the message of a refusal."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read(path: Path) -> object:
    """Return what the file holds, by its first bytes."""
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise CheckpointError(f"expected a checkpoint file, got {found}; {ADVICE}")
        with path.open("rb") as file:
            head = file.read(9)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"expected a readable file, got: {error}") from None
    if not head:
        raise CheckpointError("expected a checkpoint, got an empty file; fetch it again")
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _read_pickle(path)
    raise CheckpointError(
        f"expected a .pth or .safetensors file, got a file that starts with {head[:4]!r}; {ADVICE}"
    )


# Damaged and hostile files raise whatever they run into inside the two parsers.
def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"expected a safetensors file, got a damaged one ({reason}); fetch it again"
        ) from None


def _read_pickle(path: Path) -> object:
    try:
        # An open file: by its name, torch would take a .safetensors for what it may not be.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:
        raise CheckpointError(
            "expected a checkpoint that holds tensors only, got a damaged file or one with other "
            "objects (never run); fetch it again or save the bare state dict"
        ) from None


def _unwrap(loaded: object) -> dict[str, Tensor]:
    """Take the weights out of their container and give them their official names."""
    state: Any = loaded
    for container in ("params", "params_ema"):
        if isinstance(loaded, dict) and isinstance(loaded.get(container), dict):
            state = loaded[container]
    if not isinstance(state, dict) or not state:
        found = "an empty dict" if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"expected a dict of tensors, got {found}; {ADVICE}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            found = f"{type(tensor).__name__} under {listed([name])}"
            raise CheckpointError(f"expected a dict of tensors, got {found}; {ADVICE}")
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


def _as_float32(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(
            f"expected floating-point weights, got {tensor.dtype} in {listed([name])}; {ADVICE}"
        )
    # A few bytes can claim to be a tensor of terabytes: without storage, sparse, or by stride 0.
    stored = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not stored or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise CheckpointError(
            f"expected a plain tensor, got one without values of its own in {listed([name])}"
        )
    plain = tensor.detach().to(torch.float32, copy=True).contiguous()
    if not plain.isfinite().all():
        raise CheckpointError(
            f"expected finite weights, got NaN or infinity in {listed([name])}; "
            "take an earlier checkpoint of that training"
        )
    return plain
