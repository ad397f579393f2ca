"""Make tests/data/golden_x2.npz: what the official network does with the shipped weights.

The oracle is spandrel 0.4.2, a re-formatted copy of the official ATD v1 whose output is bit-equal
to it, with one change: its sort of the tokens by category is made stable, as ours is. It is
installed outside the repository and without its dependencies (torchvision among them, which it
imports for other networks only):

    pip install --no-deps --target ../oracle spandrel==0.4.2 einops==0.8.2
    PYTHONPATH=../oracle python tests/make_golden.py

The file holds ``image0`` (uint8 H W 3) and ``output0`` (float64 2H 2W 3, not clamped).
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from skimage import data

ROOT = Path(__file__).resolve().parents[1]
ATD_LIGHT = {
    "upscale": 2,
    "in_chans": 3,
    "img_size": 64,
    "embed_dim": 48,
    "depths": [6, 6, 6, 6],
    "num_heads": [4, 4, 4, 4],
    "window_size": 16,
    "category_size": 128,
    "num_tokens": 64,
    "reducted_dim": 8,
    "convffn_kernel_size": 7,
    "mlp_ratio": 1.0,
    "qkv_bias": True,
    "patch_norm": True,
    "ape": False,
    "img_range": 1.0,
    "upsampler": "pixelshuffledirect",
    "resi_connection": "1conv",
    "norm": True,
}
"""The official options/train/101_ATD_light_SRx2_scratch.yml."""


def official_network() -> torch.nn.Module:
    """Build the oracle with the shipped weights, in float64."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = ModuleType(name)
    transforms: Any = sys.modules["torchvision.transforms"]
    functional: Any = sys.modules["torchvision.transforms.functional"]
    transforms.functional = functional
    functional.InterpolationMode = functional.rotate = functional.normalize = None
    from spandrel.architectures.ATD import ATD

    network = ATD(**ATD_LIGHT)
    state = load_file(ROOT / "models" / "pp_atd_light_x2.safetensors")
    problems = network.load_state_dict(state, strict=False)
    # The index buffer is a constant of the constructor; the shipped file leaves it out.
    if problems.missing_keys != ["relative_position_index_SA"] or problems.unexpected_keys:
        raise SystemExit(f"the shipped weights do not fit the official network: {problems}")
    return network.eval().double()


def main() -> None:
    picture = data.coffee()[118:155, 206:256]
    sort = torch.sort
    torch.sort = lambda x, dim=-1, stable=False: sort(x, dim=dim, stable=True)
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].double() / 255
    with torch.inference_mode():
        output = official_network()(image)[0].permute(1, 2, 0).numpy()
    path = ROOT / "tests" / "data" / "golden_x2.npz"
    np.savez_compressed(path, image0=picture, output0=output)
    print(f"{path.relative_to(ROOT)}: {picture.shape} -> {output.shape}, {path.stat().st_size} B")


if __name__ == "__main__":
    main()
