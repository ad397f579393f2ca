from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ppsr.models.errors import UsageError
from ppsr.models.pure_pass import purity_mask
from ppsr.runtime import bench
from ppsr.runtime.bench_cli import main
from ppsr.runtime.upscaler import Upscaler


@pytest.fixture
def folder(
    tmp_path: Path, photo: Callable, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder, with models and photos."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m.onnx", form="routed")
    write_model(tmp_path / "d.onnx", form="routed", model="atd-light")
    write_model(tmp_path / "off.onnx", form="routed", model="atd-light", add=1 / 255)
    write_model(tmp_path / "x3.onnx", scale=3)
    Image.fromarray(photo("coffee", 61, 83)).save(tmp_path / "a.png")
    Image.fromarray(photo("astronaut", 40, 40)).save(tmp_path / "[b].png")
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_both_run_in_turns_after_a_warm_up(photo: Callable, fake: Callable) -> None:
    order: list[str] = []
    masked, dense = fake(form="routed"), fake(form="routed", model="atd-light")
    masked.change = lambda output: (order.append("m"), output)[1]
    dense.change = lambda output: (order.append("d"), output)[1]
    row = bench.measure(Upscaler(masked), Upscaler(dense), "a", photo(), 3)
    assert "".join(order) == "mdmdmdmd"
    assert (row.picture, row.size, row.pixels) == ("a", (61, 83), 61 * 83)
    assert row.pure == purity_mask(photo()).mean()
    assert row.psnr_db == math.inf
    assert row.masked_ms > row.routing_ms > 0
    assert row.ratio == row.dense_ms / row.masked_ms


def test_the_first_run_is_not_counted(
    photo: Callable, fake: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is read around the mask, then at the start, after the active tokens, at the end."""
    runs = [(0, 400, 0, 500, 8600), (0, 0.5, 0, 0.5, 9.5), (0, 1, 0, 1, 29), (0, 2, 0, 1, 18)]
    dense = [(0, 7000), (0, 50), (0, 70), (0, 40)]
    ticks = iter([t / 1000 for pair in zip(runs, dense, strict=True) for ts in pair for t in ts])
    monkeypatch.setattr("ppsr.runtime.runner.time.perf_counter", lambda: next(ticks))
    models = (Upscaler(fake(form="routed")), Upscaler(fake(form="routed", model="atd-light")))
    row = bench.measure(*models, "a", photo(), 3)
    assert (row.masked_ms, row.routing_ms, row.dense_ms) == (
        median([10, 30, 20]),
        pytest.approx(2),
        median([50, 70, 40]),
    )
    assert row.ratio == 2.5
    assert row.routing_share == pytest.approx(0.1)


def test_total_adds_times_and_weighs_shares_by_pixels() -> None:
    rows = [
        bench.Row("a", (10, 10), 100, 0.5, 10, 20, 1, math.inf),
        bench.Row("b", (10, 30), 300, 0.1, 30, 20, 2, 50.0),
    ]
    assert bench.total(rows) == bench.Row("all", None, 400, pytest.approx(0.2), 40, 40, 3, 50.0)
    assert bench.total([rows[0], replace(rows[1], routing_ms=None)]).routing_ms is None


def test_scales_must_agree(fake: Callable) -> None:
    with pytest.raises(UsageError, match="two models of the same scale, got x2 and x3"):
        bench.require_comparable(Upscaler(fake()), Upscaler(fake(scale=3)))


@pytest.mark.parametrize("form", ["self-contained", "routed"])
def test_only_the_mask_may_differ(fake: Callable, form: str) -> None:
    masked, dense = fake(form=form), fake(form=form, model="atd-light")
    bench.require_comparable(Upscaler(masked), Upscaler(dense))
    for first, second in ((masked, masked), (dense, dense), (dense, masked)):
        with pytest.raises(UsageError, match="a masked model against a dense one") as caught:
            bench.require_comparable(Upscaler(first), Upscaler(second))
        assert f"got {first.artefact.model} against {second.artefact.model}" in str(caught.value)
    other = {"self-contained": "routed", "routed": "self-contained"}[form]
    for change, message in (
        (
            {"weights_sha256": "1" * 64},
            "same weights, got 000000000000 and 111111111111;.*--weights",
        ),
        ({"precision": "fp16"}, "same precision, got fp32 and fp16;.*--fp16"),
        ({"form": other}, f"same form, got {form} and {other};.*--form"),
    ):
        changed = fake()
        changed.artefact = replace(dense.artefact, **change)
        with pytest.raises(UsageError, match=message):
            bench.require_comparable(Upscaler(masked), Upscaler(changed))


def test_what_a_graph_spends_on_routing_is_unknown(folder: Path, write_model: Callable) -> None:
    write_model(folder / "s.onnx")
    write_model(folder / "t.onnx", model="atd-light")
    arguments = ("s.onnx", "--against", "t.onnx", "a.png", "--runs", "1", "--json", "out.json")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    content = json.loads((folder / "out.json").read_text())
    for row in (content["rows"][0], content["total"]):
        assert row["routing_ms"] is row["routing_share"] is None
        assert row["pure"] > 0
    cells = next(line.split() for line in result.stdout.splitlines() if "a.png" in line)
    assert cells.count("%") == 1  # The share of pure pixels.


def test_no_input_is_overwritten(folder: Path) -> None:
    (folder / "link.json").hardlink_to(folder / "d.onnx")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for report in ("a.png", "./m.onnx", "d.onnx", "link.json"):
        result = run("m.onnx", "--against", "d.onnx", "a.png", "--runs", "1", "--json", report)
        assert result.exit_code == 2
        assert "is an input; choose another name with --json" in result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_prints_a_table_and_writes_json(folder: Path) -> None:
    arguments = ("m.onnx", "--against", "off.onnx", "a.png", "[b].png", "--runs", "2")
    result = run(*arguments, "--threads", "1", "--json", "out.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for start in ("a.png", "[b].png", "all"):
        assert sum(line.strip().startswith(f"{start} ") for line in lines) == 1
    assert "61 x 83" in result.stdout
    assert "times as fast as" in lines[-1]
    content = json.loads((folder / "out.json").read_text())
    assert content["masked"] == "pp-atd-light_x2_fp32_routed on CPU"
    assert content["dense"] == "atd-light_x2_fp32_routed on CPU"
    assert (content["runs"], content["threads"]) == (2, 1)
    assert content["command"][0] == "ppsr-bench"
    assert content["machine"]["cpu"]
    assert {"python", "numpy"} <= set(content["versions"])
    assert [row["picture"] for row in content["rows"]] == ["a.png", "[b].png"]
    first = content["rows"][0]
    assert first["size"] == [61, 83]
    assert first["psnr_db"] == pytest.approx(48.13, abs=0.1)
    assert first["ratio"] == first["dense_ms"] / first["masked_ms"]
    assert content["total"]["picture"] == "all"


def test_equal_outputs_are_null_in_json(folder: Path) -> None:
    arguments = ("m.onnx", "--against", "d.onnx", "a.png", "--runs", "1", "--json", "out.json")
    result = run(*arguments)
    assert " inf " in result.stdout
    assert json.loads((folder / "out.json").read_text())["rows"][0]["psnr_db"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("m.onnx", "--against", "x3.onnx", "a.png"),
            "two models of the same scale, got x2 and x3",
        ),
        (("m.onnx", "--against", "d.onnx", "no.png"), "no.png does not exist"),
        (("m.onnx", "--against", "d.onnx"), "Missing argument"),
        (("m.onnx", "a.png"), "Missing option '--against'"),
        (("m.onnx", "--against", "no.onnx", "a.png"), "cannot read no.onnx"),
        (("m.onnx", "--against", "d.onnx", "a.png", "--runs", "0"), "0 is not in the range"),
        (("m.onnx", "--against", "d.onnx", "a.png", "--json", "no/a.json"), "does not exist"),
    ],
)
def test_wrong_arguments_end_with_2(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
