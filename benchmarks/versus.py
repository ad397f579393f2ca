"""The masked network on a CPU against the official code, and against what arithmetic alone takes.

    pip install --no-deps --target ../oracle spandrel==0.4.2 einops==0.8.2
    PYTHONPATH=../oracle python benchmarks/versus.py     # of the files that speed.py names

Every contestant runs once in each round, and beside them a product of two large matrices by each
library: its rate, and the network's multiply-adds, say how long arithmetic alone takes. Adds
"versus" to ``benchmarks/results/speed.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx.parser
import onnxruntime
import torch
from speed import CONTESTANTS, CORNER, ROOT, SIZE, crop_of_photo, record, timed

from ppsr.models import purity_mask
from ppsr.models.atd_flops import atd_code_multiply_adds, atd_multiply_adds
from ppsr.models.errors import UsageError
from ppsr.models.pure_pass import active_tokens
from ppsr.models.registry import config_for
from ppsr.runtime.bench.timing import Sample, Timing, in_turns
from ppsr.runtime.command import reports_errors
from ppsr.runtime.open_model import open_model
from ppsr.runtime.tiles import WHOLE

OFFICIAL = "official code (spandrel 0.4.2), torch"
MATRIX = 2048


@click.command()
@click.option("--models", type=click.Path(path_type=Path), default=ROOT / "artifacts")
@click.option("--runs", default=11, show_default=True)
@click.option("--again", is_flag=True, help="Keep the figures on record, and put these beside.")
@reports_errors
def main(models: Path, runs: int, again: bool) -> None:
    """Time all contestants and the arithmetic in turns."""
    crop = crop_of_photo(SIZE, CORNER)
    ups = {name: open_model(str(models / file)) for name, file in CONTESTANTS.items()}
    contestants: dict[str, Callable[[], Any]] = {
        OFFICIAL: partial(_forward, _official(), _tensor(crop)),
        **{name: partial(up.upscale, crop, tiling=WHOLE) for name, up in ups.items()},
    }
    products = _products_of_matrices()
    calls = [
        *(partial(_timed_again, run) for run in products.values()),
        *(partial(timed, run) for run in contestants.values()),
    ]
    found = map(Timing, in_turns(calls, runs, [2] * len(calls)))
    timings = dict(zip((*products, *contestants), found, strict=True))
    mask = purity_mask(crop)
    multiply_adds = _count("pp-atd-light", len(active_tokens(mask)))
    floors = {name: _floor(timings[name], multiply_adds) for name in products}
    row = {
        "size": SIZE,
        "pure": float(mask.mean()),
        "multiply_adds": multiply_adds,
        "dense_multiply_adds": _count("atd-light", None),
        "matrix": MATRIX,
        "products": {name: asdict(timings[name].milliseconds) for name in products},
        "rows": {
            name: {
                "milliseconds": asdict(timings[name].milliseconds),
                "times_as_fast": asdict(timings[name].ratio(timings[OFFICIAL])),
                "over_floor": {
                    library: asdict(floor.ratio(timings[name])) for library, floor in floors.items()
                },
                "rounds": [sample.milliseconds for sample in timings[name].samples],
            }
            for name in contestants
        },
    }
    record("versus again" if again else "versus", row)


def _products_of_matrices() -> dict[str, Callable[[], Any]]:
    """A product of two large matrices in FP32, by library: not each uses all that a CPU has."""
    a, b = (np.random.default_rng(seed).random((MATRIX, MATRIX), np.float32) for seed in range(2))
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    square = f"float[{MATRIX}, {MATRIX}]"
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]>
        product ({square} a, {square} b) => ({square} c) {{ c = MatMul(a, b) }}"""
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return {
        "torch": lambda: ta @ tb,
        "NumPy": lambda: a @ b,
        "onnxruntime": lambda: session.run(None, {"a": a, "b": b}),
    }


def _timed_again(run: Callable[[], Any]) -> Sample:
    """What the second of two calls takes: threads of the library before still spin in the first."""
    run()
    return timed(run)


def _floor(product: Timing, multiply_adds: int) -> Timing:
    """What so many multiply-adds take at the rate of the product, round by round."""
    share = multiply_adds / MATRIX**3
    return Timing(tuple(Sample(share * sample.milliseconds) for sample in product.samples))


def _count(name: str, active: int | None) -> int:
    """Count the published network, which adds its masks: ours has them as channels too."""
    config = config_for(name, 2)
    return atd_multiply_adds(config, *SIZE, active) - atd_code_multiply_adds(config, *SIZE, active)


def _official() -> torch.nn.Module:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from make_golden import official_network

        return official_network().float().eval()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the official code needs {error.name}, which is not installed; the first lines of "
            "benchmarks/versus.py say how"
        ) from error


def _tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def _forward(network: torch.nn.Module, image: torch.Tensor) -> None:
    network(image)


if __name__ == "__main__":
    main()
