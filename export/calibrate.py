"""Calibration from end to end: trace, ranges from pictures, the search for a mix, the recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from ppsr.calibration.estimators import ESTIMATORS
from ppsr.calibration.greedy import Group, Mix, Save
from ppsr.calibration.ranges import Ranges
from ppsr.calibration.recipe import LayerPrecision, Recipe, write_recipe
from ppsr.calibration.samples import Sample, draw, list_pictures, split
from ppsr.calibration.scores import Candidate
from ppsr.calibration.search import Found, Step, search
from ppsr.calibration.search_journal import read_journal
from ppsr.models import build
from ppsr.models.config import MODEL_NAMES, SCALES, ModelName
from ppsr.models.errors import ParityError, UsageError
from ppsr.models.network import Network
from ppsr.models.pure_pass import active_tokens, pad_to_grid
from ppsr.models.registry import require_settings
from ppsr.runtime.artefact import Artefact
from ppsr.runtime.backend import require_options
from ppsr.runtime.files import check_target, is_one_of
from ppsr.runtime.versions import installed, own_version

from .attention_nodes import share_weights
from .graph_backend import GraphBackend, category_tensors, graph_sha256
from .linear import Linear, groups, list_layers_of
from .lowering import CROPS, take_ranges
from .mixed import mixed
from .options import OPSETS
from .trace import trace_network
from .tuning import RECIPES

HELD_OUT_SIDE = 256
"""In low resolution; smaller pictures are taken whole, since users measure PSNR of whole ones."""


@dataclass(frozen=True)
class CalibrateOptions:
    """What is to be calibrated. Raises UsageError for what cannot be."""

    data: Path
    """A folder of ground-truth pictures."""
    max_psnr_drop: float = 0.05
    """dB of mean PSNR of Y on pictures held out."""
    output: Path = Path("recipe.toml")
    scale: int = 2
    model: ModelName = "pp-atd-light"
    weights: str | Path | None = "default"
    """A .pth or .safetensors file of the network; None: random ones, the same every time."""
    ratio: float | None = None
    """Share of the windows that attend; for "camixer-atd-light" only. None: its default."""
    estimator: str = "mse"
    crops: int = 16
    """To measure layers on; as many other pictures, or larger crops of them, are held out."""
    save: Save = "time"
    fp16: bool = True
    """Whether layers may move to FP16 too."""
    journal: Path | None = None
    """None: beside ``output``, as ``<name>.journal.json``."""
    threads: int | None = None

    def __post_init__(self) -> None:
        _require("scale", self.scale, SCALES)
        _require("model", self.model, MODEL_NAMES)
        require_settings(self.model, self.scale, None, self.ratio)
        _require("estimator", self.estimator, ESTIMATORS)
        _require("save", self.save, ("time", "bytes"))
        require_options("cpu", self.threads)
        if not 0 <= self.max_psnr_drop < float("inf"):
            raise UsageError(f"expected a PSNR drop of 0 dB or more, got {self.max_psnr_drop:g}")
        if self.crops < 1:
            raise UsageError(f"expected at least one crop, got {self.crops}")
        if self.journal is None:
            object.__setattr__(self, "journal", Path(f"{self.output}.journal.json"))
        assert self.journal is not None
        check_target(self.output)
        if self.journal == self.output or is_one_of(self.journal, [self.output]):
            raise UsageError(f"expected another file for the journal than {self.output}")
        read_journal(self.journal)  # Refused now, not after minutes.


@dataclass(frozen=True)
class Calibrated:
    """What was found, and from what."""

    recipe: Recipe
    found: Found
    ranges: Ranges
    groups: tuple[Group, ...]
    precisions: Mapping[str, LayerPrecision]
    """Of every layer, by name."""
    held_in: int
    """Crops that layers were measured on."""
    held_out: int


def calibrate(
    options: CalibrateOptions, on_step: Callable[[str], None] = lambda _text: None
) -> Calibrated:
    """Collect ranges, search, and write the recipe.

    ``on_step`` is told what begins. A search that was stopped goes on when called again. Raises
    UsageError for the folder, its pictures, the weights or the journal, ParityError where not even
    one group keeps the budget, PpsrError where a graph or the disk fails.
    """
    on_step("read the pictures")
    for_layers, for_trials = split(list_pictures([options.data]))
    held_in = list(draw(for_layers, options.scale, options.crops))
    held_out = list(draw(for_trials, options.scale, options.crops, side=HELD_OUT_SIDE))
    on_step("load and trace the network")
    network = build(options.model, options.scale, options.weights, ratio=options.ratio)
    body = trace_body(network)
    layers = list_layers_of(body)
    artefact = Artefact(
        model=options.model,
        scale=options.scale,
        form="routed",
        precision="fp32",
        opset=OPSETS[0],
        weights_sha256=network.weights_sha256,
        version=own_version(),
        pure_pass=network.config.pure_pass,
        ratio=network.config.ratio,
    )
    samples = draw(for_layers, options.scale, max(options.crops, CROPS))
    ranges = take_ranges(
        body,
        artefact,
        (sample.lr for sample in samples),
        options.estimator,
        threads=options.threads,
        on_picture=lambda done: on_step(f"ranges, crop {done} of {len(samples)}"),
    )
    by_glob = groups(layers)

    def make(mix: Mix) -> Candidate:
        precisions = {
            layer.name: precision for glob, precision in mix.items() for layer in by_glob[glob]
        }
        model = share_weights(mixed(body, precisions, ranges.amax))
        categories = list(category_tensors(model).values())
        backend = GraphBackend(model, artefact, watch=categories, threads=options.threads)
        return Candidate(backend, categories)

    movable = _movable(by_glob, network, held_in, options.fp16)
    found = search(
        make,
        movable,
        held_in,
        held_out,
        options.max_psnr_drop,
        save=options.save,
        journal=options.journal,
        identity=_identity(body, ranges),
        on_step=lambda step: on_step(_tell(step)),
    )
    if not found.chosen:
        group, precision = found.order[0]
        alone = next(trial for trial in found.trials if trial.moves == 1)
        raise ParityError(
            f"not even {group} in {precision} keeps the budget: it loses {alone.psnr_drop:.4f} dB, "
            f"allowed is {options.max_psnr_drop:g}; allow more"
        )
    recipe = Recipe(
        model=options.model,
        scale=options.scale,
        weights_sha256=network.weights_sha256,
        layers={glob: found.chosen[glob] for glob in by_glob if glob in found.chosen},
        amax=ranges.amax,
        estimator=options.estimator,
        max_psnr_drop=options.max_psnr_drop,
        psnr_drop=found.best.psnr_drop,
    )
    names = [layer.name for layer in layers]
    precisions = recipe.require(names, options.model, options.scale, network.weights_sha256)
    write_recipe(options.output, recipe)
    return Calibrated(
        recipe, found, ranges, movable, precisions, held_in=len(held_in), held_out=len(held_out)
    )


def trace_body(network: Network) -> onnx.ModelProto:
    """The graph that ``ppsr-export`` makes for any runtime, before its precision."""
    recipe = RECIPES["any"]
    body = trace_network(recipe.fold(network), OPSETS[0])
    for _, stage in recipe.stages:
        body = stage(body)
    return body


def _movable(
    by_glob: Mapping[str, Sequence[Linear]],
    network: Network,
    samples: Sequence[Sample],
    fp16: bool,
) -> tuple[Group, ...]:
    """Weigh the groups by the multiply-adds that the samples take."""
    routing, pixels, active = network.config.pure_pass, 0, 0
    for sample in samples:
        padded = pad_to_grid(sample.lr)
        pixels += padded[..., 0].size
        active += len(active_tokens(routing.mask(padded))) if routing else padded[..., 0].size
    dictionary = getattr(network.config, "dictionary", 0) * len(samples)
    rows = {"pixels": pixels, "active tokens": active, "dictionary": dictionary}
    return tuple(
        Group(
            name=glob,
            precisions=("fp16", "int8") if fp16 else ("int8",),
            multiply_adds=sum(layer.multiply_adds * rows[layer.rows] for layer in layers),
            bytes=sum(layer.weight_bytes for layer in layers),
        )
        for glob, layers in by_glob.items()
    )


def _identity(body: onnx.ModelProto, ranges: Ranges) -> str:
    """Name what errors depend on, but for the samples: graph, ranges, and who computes."""
    told = [graph_sha256(body), dict(ranges.amax), installed(["onnxruntime", "onnxruntime-gpu"])]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _tell(step: Step) -> str:
    return f"{step.stage} {step.number}{f' of {step.of}' if step.of else ''}: {step.name}"


def _require(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise UsageError(
            f"expected {name} to be one of {', '.join(map(str, allowed))}, got {value!r}"
        )
