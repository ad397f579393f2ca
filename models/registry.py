"""Every network of this project, one row each: all that is asked of a network by its name.

Nothing outside ``ppsr.models`` compares names: to add a network is to add a row, the file its class
is in and, where its loss is more than L1, a function in ``ppsr.training.losses``. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from .adaformer_config import AdaFormerConfig
from .adaformer_flops import adaformer_multiply_adds, adaformer_paper_flops
from .atd_flops import atd_multiply_adds, atd_paper_flops
from .config import MODEL_NAMES, Config, Configuration, ModelName, PurePass
from .errors import UsageError

if TYPE_CHECKING:
    from .network import Network

Routing = Literal["index", "scores", "none"]
"""What decides how much of a picture is computed: an index of tokens that the picture says before
the network runs (the input ``active``), scores from features inside, or nothing."""

DEFAULT_RATIO = 0.5


@dataclass(frozen=True)
class Island:
    """Nodes that stay in FP32 in an FP16 export: those whose name the pattern finds."""

    name: str
    pattern: str
    reason: str


@dataclass(frozen=True)
class Model:
    """One network."""

    name: ModelName
    title: str
    """As users are told of its weights; networks of one title share them."""
    network: str
    """Where its class is, ``module:Class``."""
    configure: Callable[[int, PurePass | None, float | None], Configuration]
    """(scale, pure_pass, ratio), both None unless it has them -> its configuration."""
    routing: Routing
    paper_flops: Callable[[Any, int, int, float], float]
    """(configuration, height, width, share of pure pixels), see ``flops``."""
    multiply_adds: Callable[[Any, int, int, int | None], int]
    """(configuration, height, width, active tokens or None), see ``flops``."""
    signature: str
    """Finds a name of its state dict that no row before it has, but for those of its title."""
    islands: tuple[Island, ...]
    first: str
    """The convolution that reads the picture."""
    last: str
    """The convolution before the pixels are spread."""
    exact: tuple[str, ...] = ()
    """Other layers next to the picture, see ``ends``."""
    bare: tuple[str, ...] = ()
    """Layers whose output reaches the picture through sums and convolutions alone, no norm."""
    quiet: tuple[str, ...] = ()
    """Globs of layers: where these return nothing, the last layer reads what the first returned,"""
    gain: float = 1
    """so many times."""
    unused: str = r"(?!)"
    """Finds names of published files that are constants or never used: they are dropped."""
    shipped: str | None = None
    """File of its weights by scale, beside this one; None: there are none."""
    has_ratio: bool = False
    cpu: tuple[str, ...] = ()
    """Runtimes of the CPU that it has a graph of its own for."""
    most_pixels: int | None = None
    """Of a padded picture in an engine; None: what its profiles say."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Layers next to the picture: those that quantisation and bfloat16 leave alone."""
        return (self.first, self.last, *self.exact)

    @property
    def kept_from_int8(self) -> tuple[str, ...]:
        """Layers that INT8 leaves alone where no recipe says otherwise."""
        return (*self.ends, *self.bare)

    def load(self) -> type[Network]:
        """Import the class; needs torch."""
        module, _, name = self.network.partition(":")
        found: type[Network] = getattr(import_module(module), name)
        return found


SIMILARITY = Island(
    "similarity",
    r"attn_atd(\.(wq|wk|norm))?/",
    "decides categories: a flip regroups whole tokens",
)
REFINEMENT = Island("refinement", r"(refine|norm3)/", "weights near 1/n are FP16 subnormals")

_ATD = Model(
    name="atd-light",
    title="ATD-light",
    network="ppsr.models.atd:ATD",
    configure=lambda scale, _pure_pass, _ratio: Config(scale=scale),
    routing="none",
    paper_flops=atd_paper_flops,
    multiply_adds=atd_multiply_adds,
    signature=r"layers\.\d+\.residual_group\.(td|layers\.\d+\.attn_(atd|aca)\.)",
    islands=(SIMILARITY, REFINEMENT),
    first="conv_first",
    last="upsample.0",
    bare=("layers.3.conv", "conv_after_body"),
    quiet=("conv_after_body",),
    unused=r"relative_position_index_SA$",
    shipped="pp_atd_light_x{scale}.safetensors",
    cpu=("onnxruntime", "openvino"),
)

_ROWS: tuple[Model, ...] = (
    replace(
        _ATD,
        name="pp-atd-light",
        configure=lambda scale, pure_pass, _ratio: Config(
            scale=scale, pure_pass=pure_pass or PurePass()
        ),
        routing="index",
    ),
    _ATD,
    replace(
        _ATD,
        name="camixer-atd-light",
        title="CAMixer-ATD-light",
        configure=lambda scale, _pure_pass, ratio: Config(
            scale=scale, ratio=DEFAULT_RATIO if ratio is None else float(ratio)
        ),
        routing="scores",
        signature=r"global_predictor\.",
        islands=(
            SIMILARITY,
            REFINEMENT,
            Island(
                "hard windows",
                r"^plan/|attn_win\.(route|choose|warp)[./]",
                "chooses windows, and tells pixels of large pictures apart",
            ),
        ),
        unused=r"(?!)",
        shipped=None,
        has_ratio=True,
        cpu=(),
        most_pixels=3840 * 16**2,  # Engines choose among 3,840 windows at most (TopK).
    ),
    Model(
        name="adaformer",
        title="AdaFormer",
        network="ppsr.models.adaformer:AdaFormer",
        configure=lambda scale, _pure_pass, _ratio: AdaFormerConfig(scale=scale),
        routing="scores",
        paper_flops=lambda config, height, width, _pure: adaformer_paper_flops(
            config, height, width
        ),
        multiply_adds=lambda config, height, width, _active: adaformer_multiply_adds(
            config, height, width
        ),
        signature=r"shollow_feature_extraction\.",
        islands=(
            Island(
                "confidence",
                r"body/|body\.(var|exits)\b",
                "decides what exits: a flip changes what all tokens read",
            ),
            Island("aggregation", r"\.aggregate/", "weights near 1/n are FP16 subnormals"),
        ),
        first="head.0",
        last="tail.0",
        exact=("sub_mean", "add_mean"),
        quiet=("*_feature_extraction.*.body.2", "body.unembed"),
        gain=2,
        unused=r"relative_position_index$|\.attn\.(proj|norm[23])\.|\.project_out",
        cpu=("onnxruntime",),
    ),
)

MODELS: Mapping[str, Model] = {row.name: row for row in _ROWS}


def model_of(name: str) -> Model:
    """Return the row of a network. Raises ValueError for an unknown name."""
    if name not in MODELS:
        raise ValueError(f"expected a model of {_listed(MODEL_NAMES)}, got {name!r}")
    return MODELS[name]


def config_for(
    name: str, scale: int, pure_pass: PurePass | None = None, ratio: float | None = None
) -> Configuration:
    """Return the configuration of a named network.

    ``pure_pass`` replaces the paper's settings, ``ratio`` the default one. Raises ValueError for an
    unknown name or scale, and for settings that the network does not have.
    """
    model = model_of(name)
    if pure_pass is not None and model.routing != "index":
        raise ValueError(f"{name} has no routing: expected pure_pass=None, got {pure_pass}")
    if ratio is not None and not model.has_ratio:
        having = _listed([row.name for row in _ROWS if row.has_ratio])
        raise ValueError(f"{name} has no ratio: expected ratio=None, got {ratio}; take {having}")
    return model.configure(scale, pure_pass, ratio)


def require_settings(
    name: str, scale: int, pure_pass: PurePass | None, ratio: float | None
) -> None:
    """Raise UsageError where ``config_for`` raises ValueError."""
    try:
        config_for(name, scale, pure_pass, ratio)
    except ValueError as error:
        raise UsageError(str(error)) from None


def names_routed(routing: Routing) -> tuple[ModelName, ...]:
    """Return the names of the networks that are routed in this way."""
    return tuple(row.name for row in _ROWS if row.routing == routing)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
