"""Reading published checkpoints: what is in the file decides, and no code in it is ever run.

A ``.pth`` goes through ``torch.load(weights_only=True)``, a ``.safetensors`` through its own
parser; the first bytes tell which. Every refusal is a ``CheckpointError`` of one line.
"""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from .atd import ATD
from .config import SCALES, Config
from .errors import CheckpointError

KNOWN_BUFFER: Final = "relative_position_index_SA"
"""The one buffer of the official network: a constant, which ``WindowAttention`` computes."""

_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LAYER: Final = "layers.0.residual_group.layers.0."
_ATD_KEY: Final = re.compile(r"layers\.\d+\.residual_group\.(td|layers\.\d+\.attn_(atd|aca)\.)")
_ADVICE: Final = "pass an ATD-light v1 checkpoint, such as 101_ATD_light_SRx2_scratch.pth"


def read_checkpoint(path: str | Path, scale: int | None = None) -> dict[str, Tensor]:
    """Read a ``.pth`` or ``.safetensors`` file of ATD-light -> its 682 parameters by v1 name.

    ``params_ema`` is preferred over ``params`` over a bare dict; a ``module.`` prefix and the known
    buffer are dropped. What comes back is finite float32 on the CPU and loads strictly. Raises
    CheckpointError for anything else, and for another scale than ``scale`` (None: any).
    """
    with _naming(path):
        state = _unwrap(_read(Path(path)))
        _refuse_other_networks(state)
        state = {name: _as_float32(name, tensor) for name, tensor in state.items()}
        found = config_of(state).scale
        if scale not in (None, found):
            raise CheckpointError(
                f"expected weights for x{scale}, got weights for x{found}; "
                f"ask for scale {found} or pass the file for x{scale}"
            )
        return state


def config_of(state: Mapping[str, Tensor]) -> Config:
    """Read the hyper-parameters off a state dict -> its ``Config``, without Pure-Pass.

    ``group`` cannot be deduced and is ATD-light's. What comes back loads strictly: raises
    CheckpointError for another network or size, and for missing, unexpected or misshapen tensors.
    """
    _refuse_other_networks(state)
    found, wanted = _deduce(state), Config()
    differences = [
        f"{field.name} {getattr(found, field.name)} (ATD-light: {getattr(wanted, field.name)})"
        for field in fields(Config)
        if getattr(found, field.name) != getattr(wanted, field.name)
    ]
    if differences:
        raise CheckpointError(f"expected ATD-light, got an ATD with {', '.join(differences)}")
    rows, scales = _shape(state, "upsample.0.weight", 4)[0], {3 * s**2: s for s in SCALES}
    if rows not in scales:
        known = ", ".join(f"{count} (x{scale})" for count, scale in scales.items())
        raise CheckpointError(f"expected upsample.0.weight with rows {known}, got {rows}")
    config = Config(scale=scales[rows])
    _check_names_and_shapes(state, config)
    return config


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
            raise CheckpointError(f"expected a checkpoint file, got {found}; {_ADVICE}")
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
        f"expected a .pth or .safetensors file, got a file that starts with {head[:4]!r}; {_ADVICE}"
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
        raise CheckpointError(f"expected a dict of tensors, got {found}; {_ADVICE}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            found = f"{type(tensor).__name__} under {_listed([name])}"
            raise CheckpointError(f"expected a dict of tensors, got {found}; {_ADVICE}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in state.items() if name != KNOWN_BUFFER}


def _refuse_other_networks(state: Mapping[str, Tensor]) -> None:
    """Refuse ATD v2.0 and everything that is no ATD, by the names alone."""
    recognised = any(_ATD_KEY.match(name) for name in state)
    second = any("fc_td" in name.split(".") for name in state)
    if second or (recognised and "layers.0.norm.weight" in state):
        raise CheckpointError(
            f"expected ATD v1, got ATD v2.0, a different network (fc_td, layers.0.norm); {_ADVICE}"
        )
    if not recognised:
        raise CheckpointError(
            f"expected ATD-light v1, got another network with {_listed(state)}; {_ADVICE}"
        )


def _as_float32(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(
            f"expected floating-point weights, got {tensor.dtype} in {_listed([name])}; {_ADVICE}"
        )
    # A few bytes can claim to be a tensor of terabytes: without storage, sparse, or by stride 0.
    stored = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if not stored or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise CheckpointError(
            f"expected a plain tensor, got one without values of its own in {_listed([name])}"
        )
    plain = tensor.detach().to(torch.float32, copy=True).contiguous()
    if not plain.isfinite().all():
        raise CheckpointError(
            f"expected finite weights, got NaN or infinity in {_listed([name])}; "
            "take an earlier checkpoint of that training"
        )
    return plain


def _deduce(state: Mapping[str, Tensor]) -> Config:
    """Everything but the scale; ``group`` leaves no trace in the weights."""
    layers: dict[str, set[str]] = {}
    for name in state:
        if match := re.match(r"layers\.(\d+)\.residual_group\.layers\.(\d+)\.", name):
            layers.setdefault(match[1], set()).add(match[2])
    positions, heads = _shape(state, f"{_LAYER}attn_win.relative_position_bias_table", 2)
    return Config(
        channels=_shape(state, "conv_first.weight", 4)[0],
        depths=tuple(len(layers[block]) for block in sorted(layers)),
        heads=heads,
        window=(math.isqrt(positions) + 1) // 2,
        dictionary=_shape(state, "layers.0.residual_group.td", 2)[0],
        reduced=_shape(state, f"{_LAYER}attn_atd.wq.weight", 2)[0],
        hidden=_shape(state, f"{_LAYER}convffn.fc1.weight", 2)[0],
        kernel=_shape(state, f"{_LAYER}convffn.dwconv.depthwise_conv.0.weight", 4)[3],
    )


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> torch.Size:
    shape = state[name].shape if name in state else None
    if shape is None or len(shape) != dimensions:
        found = "none" if shape is None else f"shape {tuple(shape)}"
        raise CheckpointError(f"expected {name} with {dimensions} dimensions, got {found}")
    return shape


def _check_names_and_shapes(state: Mapping[str, Tensor], config: Config) -> None:
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in ATD(config).state_dict().items()}
    problems = []
    if missing := [name for name in wanted if name not in state]:
        problems.append(f"{len(missing)} missing ({_listed(missing)})")
    if unexpected := [name for name in state if name not in wanted]:
        problems.append(f"{len(unexpected)} unexpected ({_listed(unexpected)})")
    problems += [
        f"{name} of shape {tuple(state[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in state and state[name].shape != shape
    ][:1]
    if problems:
        raise CheckpointError(
            f"expected the {len(wanted)} tensors of ATD-light x{config.scale}, "
            f"got {', '.join(problems)}; {_ADVICE}"
        )


def _listed(names: Iterable[object], most: int = 3) -> str:
    """The first few names; a hostile one can be long or hold line ends."""
    names = list(names)
    shown = [name if str(name).isprintable() else repr(name) for name in names[:most]]
    return ", ".join(str(name)[:80] for name in shown) + (", ..." if len(names) > most else "")
