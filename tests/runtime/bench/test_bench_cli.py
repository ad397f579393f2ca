from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ppsr.runtime.bench import inputs, run
from ppsr.runtime.bench.break_even import break_even
from ppsr.runtime.bench.tables import conclusion
from ppsr.runtime.bench.timing import Summary
from ppsr.runtime.bench_cli import main

VOID = {"meta", "img", "br", "link"}
"""Tags that are not closed."""


@pytest.fixture
def folder(
    tmp_path: Path, photo: Callable, write_model: Callable, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working folder, with models and photos; memory is not measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "measure_memory", lambda *_: [])
    monkeypatch.setattr(inputs, "WINDOWS", 9)
    write_model(tmp_path / "m.onnx", form="routed")
    write_model(tmp_path / "d.onnx", form="routed", model="atd-light")
    write_model(tmp_path / "off.onnx", form="routed", model="atd-light", add=1 / 255)
    write_model(tmp_path / "x3.onnx", scale=3)
    (tmp_path / "set").mkdir()
    Image.fromarray(photo("coffee", 61, 83)).save(tmp_path / "set" / "a.png")
    Image.fromarray(photo("astronaut", 40, 40)).save(tmp_path / "set" / "[b].png")
    return tmp_path


def bench(*arguments: str) -> Result:
    result = CliRunner().invoke(main, [*arguments, "--device", "cpu", "--threads", "1"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def test_one_model_alone_needs_nothing_else(folder: Path) -> None:
    result = bench("m.onnx", "--size", "32x16", "--runs", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "A: m.onnx, pp-atd-light x2 fp32, onnxruntime on CPU" in result.stdout
    assert result.stdout.count("32x16") == 3 + 1 + 1  # Three crops, their sum, the stages.
    assert "times as fast" not in result.stdout


def test_whole_pictures_against_dense(folder: Path) -> None:
    result = bench(
        *("m.onnx", "--against", "off.onnx", "--data", "set", "--runs", "2", "--json", "out.json")
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    for start in ("a.png", "[b].png"):
        assert sum(line.strip().startswith(f"{start} ") for line in lines) == 2
    assert "83x61" in result.stdout
    assert "times as fast as" in lines[-1]
    assert lines[-1].endswith("; too few runs to be sure")
    content = json.loads((folder / "out.json").read_text())
    assert " ".join(content["command"]) == (
        "ppsr-bench m.onnx --against off.onnx --data set --runs 2 --device cpu --threads 1 "
        "--json out.json"
    )
    assert (content["runs"], content["threads"], content["device"]) == (2, 1, "cpu")
    assert content["warm_up"] == {"m.onnx": 1, "off.onnx": 1}
    assert content["against"] == "off.onnx"
    assert [one["stem"] for one in content["models"]] == [
        *("pp-atd-light_x2_fp32_routed", "atd-light_x2_fp32_routed"),
    ]
    assert content["machine"]["cpu"]
    assert {"python", "numpy"} <= set(content["versions"])
    rows = [row for row in content["rows"] if row["model"] == "m.onnx"]
    assert [row["picture"] for row in rows] == ["[b].png", "a.png"]
    assert rows[1]["size"] == [61, 83]
    assert len(rows[1]["rounds"]) == 2
    assert rows[1]["psnr_db"] == pytest.approx(48.13, abs=0.1)
    assert rows[1]["ratio"]["low"] <= rows[1]["ratio"]["median"] <= rows[1]["ratio"]["high"]
    assert content["totals"][0]["pixels"] == 61 * 83 + 40 * 40
    assert [one["model"] for one in content["stages"]] == ["m.onnx", "off.onnx"]


def test_what_a_graph_spends_on_routing_is_unknown(folder: Path, write_model: Callable) -> None:
    write_model(folder / "s.onnx")
    result = bench("s.onnx", "--data", "set/a.png", "--runs", "1", "--json", "out.json")
    assert "in network" in result.stdout
    (row,) = json.loads((folder / "out.json").read_text())["rows"]
    assert row["routing_milliseconds"] is None
    assert row["pure"] > 0


def test_all_files_are_written(folder: Path, tmp_path: Path) -> None:
    names = ("out.json", "out.csv", "out.svg", "out.html")
    targets = [f"{option}={folder / name}" for option, name in
               zip(("--json", "--csv", "--plot", "--report"), names, strict=True)]  # fmt: skip
    result = bench(
        *(str(folder / "m.onnx"), "--against", "d.onnx", "--data", str(folder / "set"), "--shares"),
        *("--size", "32x32", "--size", "16x32", "--runs", "2", *targets),
    )
    assert result.exit_code == 0, result.output
    for name in names:
        assert str(tmp_path) not in (folder / name).read_text()
    content = json.loads((folder / "out.json").read_text())
    assert content["rows"][0]["psnr_db"] == "inf"
    (curve,) = content["shares"]
    shares = [point["share"] for point in curve["synthetic"]]
    assert shares == pytest.approx([n / 16 for n in (0, 2, 3, 5, 6, 8, 10, 11, 13, 14, 16)])
    savings = [point["saving"]["median"] for point in curve["synthetic"]]
    assert curve["break_even"]["sentence"] == break_even(shares, savings).sentence
    assert curve["break_even"]["sentence"] in result.stdout
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["section"] for row in rows} == {"picture", "size", "real", "synthetic"}
    made = [row for row in rows if row["section"] == "synthetic"]
    assert [float(row["saving"]) for row in made] == savings
    assert ElementTree.parse(folder / "out.svg").getroot().tag.endswith("svg")
    _check_page((folder / "out.html").read_text())
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def _check_page(text: str) -> None:
    """Well nested, of one file, with figures, pictures and tables."""
    open_tags: list[str] = []
    found: list[str] = []
    names: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(tag)
            names.extend(value or "" for key, value in attrs if key == "id")
            for key, value in attrs:
                if key in ("src", "href", "data"):
                    assert (value or "").startswith(("data:image/webp;base64,", "#"))
            if tag not in VOID:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Parser(convert_charrefs=True).feed(text)
    assert open_tags == []
    shown = [float(share) for share in re.findall(r"([0-9.]+) % of the\s+pixels shown", text)]
    assert shown == sorted(shown)
    assert "A: m.onnx" in text
    assert found.count("svg") == 3
    assert found.count("img") == 3 * 5
    assert "script" not in found
    assert len(names) == len(set(names))
    assert "://" not in text
    assert not re.search(r"url\((?!#)", text)


def test_no_input_is_overwritten(folder: Path) -> None:
    (folder / "link.json").hardlink_to(folder / "d.onnx")
    (folder / "m.onnx.json").write_text("{}")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in ("set/a.png", "./m.onnx", "d.onnx", "link.json", "m.onnx.json"):
        for option in ("--json", "--report"):
            result = bench("m.onnx", "--against", "d.onnx", "--data", "set", option, name)
            assert result.exit_code == 2
            assert f"is an input; choose another name with {option}" in result.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_interrupted_run_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "out.json").write_text("before")

    def interrupt(*_: object) -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure_memory", interrupt)
    before = sorted(folder.iterdir())
    result = bench("m.onnx", "--size", "16x16", "--runs", "1", "--json", "out.json")
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted\n")
    assert sorted(folder.iterdir()) == before
    assert (folder / "out.json").read_text() == "before"


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_extra_ends_with_4(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in [*sys.modules]:
        if name.startswith(("ppsr.runtime.bench.figures", "ppsr.runtime.bench.page", package)):
            monkeypatch.delitem(sys.modules, name)
    package_of_bench = sys.modules["ppsr.runtime.bench"]
    for name in ("figures", "page"):
        monkeypatch.delattr(package_of_bench, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    result = bench("m.onnx", "--report", "out.html")
    assert result.exit_code == 4
    assert result.stderr.count("\n") == 1
    assert "pip install 'ppsr[report]'" in result.stderr


def test_a_conclusion_says_what_is_in_doubt() -> None:
    assert conclusion(Summary(1.14, 1.1, 1.2), "masked") == (
        "masked is 1.14 times as fast as dense (quartiles 1.10 to 1.20)"
    )
    assert conclusion(Summary(0.8, 0.5, 0.9), "masked") == (
        "dense is 1.25 times as fast as masked (quartiles 1.11 to 2.00)"
    )
    assert conclusion(Summary(1.14, 1.1, 1.2), "masked", 0.5).endswith(
        "(quartiles 1.10 to 1.20) where 50.0 % of the pixels are pure"
    )
    assert conclusion(Summary(1.02, 0.9, 1.1), "A").endswith(
        "(quartiles 0.90 to 1.10): these runs do not tell them apart"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("m.onnx", "--against", "x3.onnx"), "two models of the same scale, got x2 and x3"),
        (("m.onnx", "--data", "no.png"), "no.png does not exist"),
        ((), "Missing argument 'MODEL...'"),
        (("no.onnx",), "cannot read no.onnx"),
        (("m.txt",), "got m.txt"),
        (("m.onnx", "--against", "d.onnx", "--runs", "0"), "0 is not in the range"),
        (("m.onnx", "--json", "no/a.json"), "does not exist"),
        (("m.onnx", "--size", "10"), "expected a size like 192x128"),
        (("m.onnx", "--size", "0x10"), "expected a size like 192x128"),
        (("m.onnx", "--size", "999x10"), "no picture holds a crop of 999x10"),
        (("m.onnx", "--shares"), "--shares compares with a dense model"),
        (("m.onnx", "--plot", "a.svg"), "--plot draws the curve of --shares"),
        (("m.onnx", "--plot", "a.png"), "expected a name that ends in .svg, got a.png"),
        (("m.onnx", "--json", "a", "--csv", "a"), "a is given to both --json and --csv"),
        (("default",), "default has no scale of its own; give one with --scale"),
        (("m.onnx", "--data", "."), "of palette"),
    ],
)
def test_wrong_arguments_end_with_2(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    if message == "of palette":
        Image.new("P", (20, 20)).save(folder / "set" / "p.png")
        message = "p.png is a PNG of 8-bit RGB by a palette"
    result = bench(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
