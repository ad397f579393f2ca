"""ppsr-calibrate on the tiny network: what it finds, writes and says, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ppsr.calibration import search as searching
from ppsr.calibration.recipe import read_recipe
from ppsr.calibration.samples import draw, list_pictures, split
from ppsr.calibration.scores import Candidate, runs, score
from ppsr.calibration.search import Found, Trial
from ppsr.export import calibrate
from ppsr.export.attention_nodes import share_weights
from ppsr.export.calibrate_cli import main
from ppsr.export.graph_backend import GraphBackend
from ppsr.export.linear import groups, list_layers_of
from ppsr.export.mixed import mixed as mixed_graph
from ppsr.models.atd import ATD
from ppsr.models.pure_pass import purity_mask
from ppsr.runtime.artefact import Artefact

BUDGET = "0.02"
ASKED = ("--data", "pictures", "--crops", "2", "--max-psnr-drop", BUDGET)
SIDES = ((80, 96), (75, 91), (112, 80), (97, 65))
"""Height and width of the ground truth."""


def run(*arguments: str) -> Result:
    """``ppsr-calibrate`` on one thread; whatever happens, no traceback."""
    result = CliRunner().invoke(main, [*arguments, "--threads", "1"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


@pytest.fixture(autouse=True, scope="module")
def tiny(network: Callable[..., ATD], traced: Callable[..., onnx.ModelProto]) -> Iterator[None]:
    """Calibrate the tiny network, on small crops, without tracing it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "build", lambda *_, **__: network())
        patch.setattr(calibrate, "trace_network", lambda *_: traced())
        sides = {calibrate.HELD_OUT_SIDE: 48}
        patch.setattr(calibrate, "draw", lambda *a, side=0: draw(*a, side=sides.get(side, 32)))
        patch.setattr(calibrate, "CROPS", 3)
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, photo: Callable) -> Path:
    """A folder with pictures of mixed sizes below it, and what holds none."""
    path = tmp_path_factory.mktemp("work")
    (path / "pictures" / "more").mkdir(parents=True)
    (path / "empty").mkdir()
    for number, (height, width) in enumerate(SIDES):
        place = path / "pictures" / ("more" if number % 2 else ".") / f"{number}.png"
        Image.fromarray(photo("coffee", height, width, 40 * number, 100)).save(place)
    (path / "one").mkdir()
    Image.fromarray(photo("coffee", 80, 80)).save(path / "one" / "a.png")
    (path / "small").mkdir()
    for number in range(2):
        Image.fromarray(photo("coffee", 20, 20 + number)).save(path / "small" / f"{number}.png")
    (path / "broken").mkdir()
    for name in ("a.png", "b.png"):
        (path / "broken" / name).write_text(f"no picture {name}")
    (path / "w.pth").write_text("no weights")
    (path / "garbled.json").write_text("{")
    return path


@pytest.fixture
def folder(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    return work


@pytest.fixture(scope="module")
def whole(work: Path) -> Result:
    """A search from the beginning to the end, into ``whole.toml``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        return run(*ASKED, "-o", "whole.toml")


def test_it_writes_a_recipe_that_keeps_the_budget(
    folder: Path, whole: Result, network: Callable[..., ATD], body: Callable[..., onnx.ModelProto]
) -> None:
    assert (whole.exit_code, whole.stderr) == (0, "")
    recipe = read_recipe(folder / "whole.toml")
    assert recipe.max_psnr_drop == float(BUDGET)
    assert recipe.psnr_drop is not None
    assert recipe.psnr_drop <= float(BUDGET)
    layers = list_layers_of(body())
    names = [layer.name for layer in layers]
    precisions = recipe.require(names, "pp-atd-light", 2, network().weights_sha256)
    assert "int8" in precisions.values()
    assert set(recipe.amax) == {site for layer in layers for site in layer.sites}

    # Applied by hand, it loses what it says.
    artefact = Artefact("pp-atd-light", 2, "routed", "fp32", 20, "", "", network().config.pure_pass)
    held_out = list(draw(split(list_pictures([folder / "pictures"]))[1], 2, 2, side=48))
    mixed = mixed_graph(body(), precisions, recipe.amax)
    fp32, mix = (
        list(runs(Candidate(GraphBackend(share_weights(graph), artefact, threads=1)), held_out))
        for graph in (body(), mixed)
    )
    truth, found = score(held_out, fp32, fp32), score(held_out, mix, fp32)
    assert truth.mean_psnr_y - found.mean_psnr_y == pytest.approx(recipe.psnr_drop, abs=1e-9)
    assert found.psnr < 80


def test_it_says_what_it_found(folder: Path, whole: Result, body: Callable[..., Any]) -> None:
    lines = whole.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    recipe = read_recipe(folder / "whole.toml")
    groups = dict.fromkeys(layer.group for layer in list_layers_of(body()))
    rows = [line.split() for line in lines if line.split() and line.split()[0] in groups]
    assert [(row[0], row[1]) for row in rows] == [
        (group, precision) for group in groups for precision in ("fp16", "int8")
    ]
    chosen = {row[0]: row[1] for row in rows if row[-1] == "yes"}
    assert chosen == recipe.layers
    assert sum(line.endswith(", chosen") for line in lines) == 1
    layers = len(list_layers_of(body()))
    assert any(line.startswith(f"whole.toml: {layers} layers, ") for line in lines)
    assert f"loses {recipe.psnr_drop:.4f} dB (allowed: 0.02)" in whole.stdout
    assert lines[-1] == "Next: ppsr-export --scale 2 --model pp-atd-light --recipe whole.toml"


def test_stopped_and_called_again_it_ends_the_same(
    folder: Path, whole: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def counted(candidate: Candidate, samples: Any, most: float) -> Any:
        made.append(candidate)
        if len(made) > most:
            raise KeyboardInterrupt
        return runs(candidate, samples)

    monkeypatch.setattr(searching, "runs", partial(counted, most=8))
    stopped = run(*ASKED, "-o", "again.toml")
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    assert stopped.stderr == (
        "stopped; again.toml.journal.json keeps what was measured, the same command goes on\n"
    )
    assert not (folder / "again.toml").exists()
    made.clear()
    monkeypatch.setattr(searching, "runs", partial(counted, most=np.inf))
    again = run(*ASKED, "-o", "again.toml")
    assert again.exit_code == 0
    assert (folder / "again.toml").read_bytes() == (folder / "whole.toml").read_bytes()
    assert again.stdout == whole.stdout.replace("whole.toml", "again.toml")
    first = len(made)
    made.clear()
    assert run(*ASKED, "-o", "again.toml").exit_code == 0
    assert made == []
    assert first > 10


def test_only_int8_and_another_estimator(folder: Path, whole: Result) -> None:
    journal = folder / "bytes.toml.journal.json"
    journal.write_bytes((folder / "whole.toml.journal.json").read_bytes())
    result = run(
        *ASKED, "-o", "bytes.toml", "--no-fp16", "--save", "bytes", "--estimator", "minmax"
    )
    assert result.exit_code == 0
    recipe = read_recipe(folder / "bytes.toml")
    assert set(recipe.layers.values()) == {"int8"}
    assert recipe.estimator == "minmax"
    # Scores of other ranges are none of its own.
    assert len(json.loads(journal.read_text())["searches"]) == 2
    assert recipe.amax != read_recipe(folder / "whole.toml").amax
    assert "% of the bytes of weights; loses" in result.stdout
    assert " fp16 " not in result.stdout.replace("in fp16", "")


def test_groups_weigh_what_they_compute(
    folder: Path, body: Callable[..., Any], network: Callable[..., ATD]
) -> None:
    samples = list(draw(list_pictures([folder / "pictures"]), 2, 2, side=32))
    by_glob = groups(list_layers_of(body()))
    found = {g.name: g for g in calibrate._movable(by_glob, network(), samples, fp16=True)}
    pixels = sum(sample.lr[..., 0].size for sample in samples)
    active = sum(int((~purity_mask(sample.lr)).sum()) for sample in samples)
    assert 0 < active < pixels
    channels = network().config.channels
    assert found["conv_first"].multiply_adds == 3 * channels * 9 * pixels
    assert found["conv_first"].bytes == 4 * 3 * channels * 9
    assert found["layers.0.*.convffn.fc1"].multiply_adds == 2 * channels**2 * pixels
    for glob, rows in (
        ("layers.0.*.attn_win.proj", pixels),
        ("layers.0.*.attn_aca.proj", active),
        ("layers.0.*.attn_atd.wv", 64 * len(samples)),
    ):
        # A weight takes 4 bytes, and is multiplied once for each row.
        assert found[glob].multiply_adds == found[glob].bytes / 4 * rows


def test_where_nothing_fits_it_is_exit_code_3(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = (("upsample.0", "int8"), ("conv_first", "int8"))
    trial, none = Trial(1, (), 0.0341, 44.0, None), Trial(0, (), 0.0, 99.0, None)
    nothing = Found({}, order, (), 0, (trial,), none, order, 0.0)
    monkeypatch.setattr(calibrate, "search", lambda *_, **__: nothing)
    result = run(*ASKED, "-o", "no.toml")
    assert (result.exit_code, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    assert line == (
        "Error: not even upsample.0 in int8 keeps the budget: it loses 0.0341 dB, allowed is 0.02; "
        "allow more"
    )
    assert not (folder / "no.toml").exists()


REFUSED: dict[str, tuple[tuple[str, ...], int, str]] = {
    "no data": ((), 2, "Missing option '--data'"),
    "missing folder": (("--data", "no"), 2, "a folder of pictures, got nothing there: no"),
    "empty folder": (("--data", "empty"), 2, "empty holds no picture"),
    "one picture": (("--data", "one"), 2, "at least two different pictures"),
    "small pictures": (("--data", "small"), 2, "pictures of at least 32x32 pixels"),
    "broken pictures": (("--data", "broken"), 2, "is no picture"),
    "drop": ((*ASKED, "--max-psnr-drop", "-1"), 2, "a PSNR drop of 0 dB or more, got -1"),
    "drop is nan": ((*ASKED, "--max-psnr-drop", "nan"), 2, "0 dB or more, got nan"),
    "crops": ((*ASKED, "--crops", "0"), 2, "0 is not in the range x>=1"),
    "estimator": ((*ASKED, "--estimator", "guess"), 2, "'guess' is not one of 'minmax'"),
    "output": ((*ASKED, "-o", "no/r.toml"), 2, "the folder no does not exist"),
    "output is a folder": ((*ASKED, "-o", "empty"), 2, "cannot write empty: it is a folder"),
    "journal": ((*ASKED, "--journal", "no/j.json"), 2, "the folder no does not exist"),
    "journal is output": (
        (*ASKED, "-o", "j", "--journal", "./j"),
        2,
        "another file for the journal than j",
    ),
    "garbled journal": ((*ASKED, "--journal", "garbled.json"), 2, "is no journal of a search"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(
    folder: Path, whole: Result, name: str
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments, code, message = REFUSED[name]
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_a_missing_package_is_told(package: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import ppsr.export.calibrate_cli as c; c.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--data", "."], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        f"Error: calibrating needs the package {package}: pip install 'ppsr[export,cpu]'\n"
    )


def test_importing_is_cheap() -> None:
    code = (
        "import sys, ppsr.export.calibrate_cli\n"
        "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_help_says_what_the_columns_mean() -> None:
    output = " ".join(CliRunner().invoke(main, ["--help"]).output.split())
    for words in ('"flipped"', "Exit code 3", "--max-psnr-drop", "OUTPUT.journal.json", "0.05"):
        assert words in output, words
