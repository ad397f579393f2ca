"""One row for each network, and nothing that knows their names beside it."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from ppsr.models import build, paper_flops
from ppsr.models.config import MODEL_NAMES, PurePass
from ppsr.models.errors import CheckpointError, UsageError
from ppsr.models.families import config_of
from ppsr.models.network import Network
from ppsr.models.registry import MODELS, config_for, model_of, names_routed, require_settings

FOLDERS = ("calibration", "export", "runtime", "training")


def test_there_is_a_row_for_every_name() -> None:
    assert tuple(MODELS) == MODEL_NAMES
    assert names_routed("index") == ("pp-atd-light",)
    assert names_routed("scores") == ("camixer-atd-light", "adaformer")


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_rows_are_true(name: str) -> None:
    """Of the network that the row builds: layers, routing, configuration, what it is known by."""
    row, config = model_of(name), config_for(name, 4)
    assert (config.name, config.scale) == (name, 4)
    with torch.device("meta"):
        network = row.load()(config)
    assert isinstance(network, Network)
    assert (network.purity is not None) == (config.pure_pass is not None)
    assert (row.routing == "index") == (config.pure_pass is not None)
    assert row.has_ratio == (config.ratio is not None)
    for layer in row.ends:
        assert isinstance(network.get_submodule(layer), torch.nn.Conv2d)
    assert network.get_submodule(row.last).weight.shape[0] == 3 * 16
    state = network.state_dict()
    assert any(re.match(row.signature, key) for key in state)
    assert not any(re.search(row.unused, key) for key in state)
    assert model_of(config_of(state).name).title == row.title
    for scale in (2, 3, 4):
        if row.shipped is not None:
            assert (files("ppsr.models") / row.shipped.format(scale=scale)).is_file()


@pytest.mark.parametrize("name", names_routed("scores"))
def test_weights_that_are_not_shipped_are_told(name: str) -> None:
    with pytest.raises(
        CheckpointError, match=f"are shipped; train some .* --model {name}, or name"
    ):
        build(name, 4)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_weights_of_another_network_are_refused(name: str, tmp_path: Path) -> None:
    other = "adaformer" if name != "adaformer" else "atd-light"
    path = tmp_path / "other.pth"
    torch.save(build(other, 2, weights=None).state_dict(), path)
    title = model_of(other).title
    with pytest.raises(CheckpointError, match=f"of {model_of(name).title}, got weights of {title}"):
        build(name, 2, weights=path)
    if name != "pp-atd-light":
        assert build(other, 2, weights=path).weights_sha256


def test_what_a_published_file_holds_in_vain_is_dropped(tmp_path: Path) -> None:
    network = build("adaformer", 2, weights=None)
    vain = {
        "body.blocks.0.attn.proj.weight": torch.zeros(64, 64),
        "body.blocks.5.attn.norm3.bias": torch.zeros(64),
        "body.blocks.1.attn.relative_position_index": torch.zeros(64, 64, dtype=torch.int64),
        "body.blocks.1.project_out.weight": torch.zeros(64, 64),
    }
    torch.save({**network.state_dict(), **vain}, tmp_path / "official.pt")
    again = build("adaformer", 2, weights=tmp_path / "official.pt")
    assert again.weights_sha256 == network.weights_sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("edsr", 2, None, None), "expected a model of pp-atd-light, atd-light, camixer"),
        (("atd-light", 2, PurePass(), None), "atd-light has no routing: expected pure_pass=None"),
        (("adaformer", 2, None, 0.5), "adaformer has no ratio: .* got 0.5; take camixer-atd-light"),
        (("camixer-atd-light", 2, None, 0.0), "expected a ratio above 0 and up to 1, got 0.0"),
        (("adaformer", 5, None, None), "expected a scale of 2, 3, 4, got 5"),
    ],
)
def test_settings_that_a_network_does_not_have(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_for(*arguments)
    with pytest.raises(UsageError, match=message):
        require_settings(*arguments)


@pytest.mark.parametrize(("ratio", "published"), [(0.8, 83.67), (0.5, 73.48)])
def test_flops_of_camixer_are_the_papers(ratio: float, published: float) -> None:
    found = paper_flops("camixer-atd-light", 4, 180, 320, ratio=ratio) / 1e9
    assert round(found, 2) == published


def test_no_other_code_compares_names() -> None:
    """The measure of the mechanism: a network is added in models/ and in the losses alone."""
    pattern = re.compile(rf"[=!]= *[\"'](?:{'|'.join(MODEL_NAMES)})[\"']|\bin \([\"']pp-atd")
    root = Path(__file__).parents[2]
    sources = [path for folder in FOLDERS for path in (root / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [path.name for path in sources if pattern.search(path.read_text())] == []
