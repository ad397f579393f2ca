from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsr.models.errors import PictureError, PpsrError
from ppsr.models.pure_pass import purity_mask
from ppsr.runtime import Upscaler
from ppsr.runtime.dataset import PictureSet, find_sets
from ppsr.runtime.evaluation import (
    Evaluation,
    Method,
    Row,
    Score,
    evaluate,
    gain,
    measure,
)
from ppsr.runtime.imresize import degrade, imresize
from ppsr.runtime.methods import bicubic
from ppsr.runtime.metrics import psnr_y, ssim_y
from ppsr.runtime.pictures.decode import read_rgb
from ppsr.runtime.upscaler import Result

EVAL = Path(__file__).parents[3] / "shared" / "data" / "eval"


def bicubic_method(scale: int) -> Method:
    return Method("bicubic", lambda rgb: bicubic(rgb, scale), {"model": "bicubic"})


@pytest.mark.skipif(not EVAL.is_dir(), reason="needs the pictures in ../shared")
@pytest.mark.parametrize(
    ("name", "scale", "headline", "unrounded", "likeness"),
    [
        ("Set5", 2, 33.64, 33.67, 0.929),
        ("Set5", 4, 28.42, 28.43, 0.810),
        ("Set14", 2, 30.31, 30.32, 0.869),
        ("Set14", 4, 26.08, 26.09, 0.704),
        ("B100", 2, 29.55, 29.56, 0.843),
        ("B100", 4, 25.96, 25.96, 0.667),
    ],
)
def test_bicubic_is_where_the_papers_have_it(
    name: str, scale: int, headline: float, unrounded: float, likeness: float
) -> None:
    evaluation = evaluate([bicubic_method(scale)], find_sets([EVAL / name]), scale)
    (mean,) = evaluation.means(name)
    print(name, scale, mean)
    assert round(mean.psnr_y, 2) == headline
    assert round(mean.psnr_y_unrounded, 2) == unrounded
    assert mean.ssim_y == pytest.approx(likeness, abs=5e-4)


@pytest.fixture
def folder(tmp_path: Path, photo: Callable) -> Path:
    """Two folders of ground truth."""
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    Image.fromarray(photo("astronaut", 41, 63)).save(tmp_path / "one" / "deep" / "b.png")
    Image.fromarray(photo("coffee", 64, 80)).save(tmp_path / "one" / "a.png")
    Image.fromarray(photo("chelsea", 50, 50)).convert("L").save(tmp_path / "two" / "grey.png")
    return tmp_path


@pytest.fixture
def both(fake: Callable) -> list[Method]:
    """Bicubic, and pixels repeated by a masked model."""
    repeats = Upscaler(fake(form="routed"))
    return [bicubic_method(2), Method("repeats", repeats.upscale, {"model": "fake"})]


def test_rows_come_in_order_and_hold_what_the_metrics_say(
    folder: Path, both: list[Method], photo: Callable
) -> None:
    told: list[Row] = []
    evaluation = evaluate(both, find_sets([folder / "one", folder / "two"]), 2, told.append)
    assert told == list(evaluation.rows)
    assert [(row.set, row.picture, row.method, row.size) for row in told] == [
        ("one", "a.png", "bicubic", (32, 40)),
        ("one", "a.png", "repeats", (32, 40)),
        ("one", "deep/b.png", "bicubic", (20, 31)),
        ("one", "deep/b.png", "repeats", (20, 31)),
        ("two", "grey.png", "bicubic", (25, 25)),
        ("two", "grey.png", "repeats", (25, 25)),
    ]
    small, truth = degrade(photo("astronaut", 41, 63), 2)
    larger = imresize(small, 2)
    score = told[2].score
    assert score.psnr_y == psnr_y(larger, truth, 2)
    assert score.psnr_y_unrounded == psnr_y(larger, truth, 2, rounded=False)
    assert score.ssim_y == ssim_y(larger, truth, 2)
    assert score.pure is None
    assert score.milliseconds > 0
    assert told[3].score.pure == purity_mask(small).mean()
    assert told[3].score.psnr_y == psnr_y(small.repeat(2, 0).repeat(2, 1), truth, 2)


def test_means_are_over_pictures_and_the_share_is_over_pixels() -> None:
    def row(picture: str, method: str, size: tuple[int, int], *numbers: Any) -> Row:
        return Row("s", picture, size, method, Score(*numbers))

    methods = tuple(Method(name, lambda rgb: bicubic(rgb, 2), {}) for name in "AB")
    rows = (
        row("a", "A", (10, 10), 30.0, 31.0, 0.5, None, 10.0),
        row("a", "B", (10, 10), 32.0, 33.0, 0.6, 0.5, 20.0),
        row("b", "A", (10, 30), 20.0, 21.0, 0.7, None, 30.0),
        row("b", "B", (10, 30), 19.0, 20.0, 0.7, 0.1, 40.0),
    )
    evaluation = Evaluation(2, methods, (PictureSet("s", Path("s"), ()),), rows)
    first, second = evaluation.means("s")
    assert first == Score(25.0, 26.0, pytest.approx(0.6), None, 20.0)
    assert second == Score(25.5, 26.5, pytest.approx(0.65), pytest.approx(0.2), 30.0)
    (spelt,) = evaluation.to_json()["sets"]
    assert [one["gain"]["psnr_y"] for one in spelt["rows"]] == [2, -1]
    assert spelt["mean"]["gain"]["psnr_y"] == 0.5
    assert spelt["mean"]["pictures"] == 2


def test_equal_pictures_have_no_gain_and_are_null_in_json(photo: Callable) -> None:
    truth = photo("coffee", 64, 80)
    equal = measure(Result(truth, None, 1.0, 0.0), truth, 2)
    other = measure(Result(truth // 2, None, 1.0, 0.0), truth, 2)
    assert (equal.psnr_y, equal.psnr_y_unrounded) == (math.inf, math.inf)
    assert gain(equal, equal).psnr_y == 0
    assert gain(other, equal).psnr_y == math.inf
    rows = tuple(Row("s", "a", (32, 40), name, equal) for name in "AB")
    methods = tuple(Method(name, lambda rgb: bicubic(rgb, 2), {}) for name in "AB")
    evaluation = Evaluation(2, methods, (PictureSet("s", Path("s"), ()),), rows)
    spelt = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))["sets"][0]["rows"][0]
    assert spelt["scores"]["A"]["psnr_y"] is None
    assert spelt["gain"] == {"psnr_y": 0, "psnr_y_unrounded": 0, "ssim_y": 0}
    assert ",inf,inf,1.0,," in evaluation.to_csv()


def test_json_and_csv_hold_all_rows(folder: Path, both: list[Method]) -> None:
    evaluation = evaluate(both, find_sets([folder / "two", folder / "one"]), 2)
    spelt = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert spelt["scale"] == 2
    assert spelt["methods"][1] == {"name": "repeats", "model": "fake"}
    assert "imresize" in spelt["protocol"]["input"]
    assert [one["name"] for one in spelt["sets"]] == ["two", "one"]
    first = spelt["sets"][1]["rows"][0]
    assert (first["picture"], first["size"]) == ("a.png", [32, 40])
    assert first["scores"]["bicubic"]["pure"] is None
    assert first["gain"]["psnr_y"] == (
        first["scores"]["repeats"]["psnr_y"] - first["scores"]["bicubic"]["psnr_y"]
    )
    table = list(csv.DictReader(evaluation.to_csv().splitlines()))
    assert len(table) == 6
    assert float(table[2]["psnr_y"]) == first["scores"]["bicubic"]["psnr_y"]
    assert (table[2]["set"], table[2]["height"], table[2]["pure"]) == ("one", "32", "")


def test_one_method_has_no_gain(folder: Path, both: list[Method]) -> None:
    spelt = evaluate(both[:1], find_sets([folder / "two"]), 2).to_json()
    assert "gain" not in spelt["sets"][0]["mean"]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_smallest_picture_that_can_be_measured(tmp_path: Path, scale: int) -> None:
    side = 8 * scale
    rgb = np.random.default_rng(0).integers(0, 256, (side, side + 1, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    sets = find_sets([tmp_path])
    assert evaluate([bicubic_method(scale)], sets, scale).rows[0].size == (8, 8)
    Image.fromarray(rgb[:-1]).save(tmp_path / "z.png")
    told: list[Row] = []
    message = f"z.png is too small to measure at x{scale}: expected {side} x {side} .*, got"
    with pytest.raises(PictureError, match=f"{message} {side - 1} x {side + 1}"):
        evaluate([bicubic_method(scale)], find_sets([tmp_path]), scale, told.append)
    assert not told


def test_a_broken_picture_is_told_before_a_model_runs(folder: Path, fake: Callable) -> None:
    (folder / "two" / "z.png").write_bytes(b"no picture")
    backend = fake()
    method = Method("m", Upscaler(backend).upscale, {})
    with pytest.raises(PictureError, match=r"z\.png is no picture"):
        evaluate([method], find_sets([folder / "one", folder / "two"]), 2)
    assert not backend.feeds


def test_a_failure_names_picture_and_method(folder: Path, fake: Callable) -> None:
    method = Method("m", Upscaler(fake(error=PpsrError("the model failed"))).upscale, {})
    with pytest.raises(PpsrError, match=r"one/a\.png by m: the model failed"):
        evaluate([method], find_sets([folder / "one"]), 2)


def test_the_ground_truth_on_disk_is_left_alone(folder: Path, both: list[Method]) -> None:
    before = read_rgb(folder / "one" / "a.png")
    evaluate(both, find_sets([folder / "one"]), 2)
    np.testing.assert_array_equal(read_rgb(folder / "one" / "a.png"), before)
