"""The wheel holds what the tree holds, under one import name."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer")

ROOT = Path(__file__).parents[1]
FOLDERS = ("calibration", "export", "models", "runtime", "training")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    config: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return config


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built from a copy: stale files of an old build must not get in."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return archive.namelist()


def test_every_package_is_listed(pyproject: dict[str, Any]) -> None:
    found = {
        ".".join(("ppsr", *init.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert found == set(pyproject["tool"]["setuptools"]["packages"])


def test_every_tool_knows_every_folder(pyproject: dict[str, Any]) -> None:
    tool = pyproject["tool"]
    banned = tool["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert set(banned) == set(FOLDERS)
    assert set(tool["pyright"]["include"]) == {*FOLDERS, "tests"}


def test_typings_link_to_the_folders() -> None:
    links = {link.name: link.resolve() for link in (ROOT / "typings" / "ppsr").iterdir()}
    assert links == {name: (ROOT / name).resolve() for name in FOLDERS}


def test_every_command_has_its_function(pyproject: dict[str, Any]) -> None:
    commands = pyproject["project"]["scripts"]
    assert {"ppsr-bench", "ppsr-export", "ppsr-run"} <= set(commands)
    for target in commands.values():
        module, name = target.split(":")
        source = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
        assert source.is_file(), f"{target}: no {source.relative_to(ROOT)}"
        tree = ast.parse(source.read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_package_data_pattern_finds_a_file(pyproject: dict[str, Any]) -> None:
    setuptools = pyproject["tool"]["setuptools"]
    for package, patterns in setuptools["package-data"].items():
        for name in FOLDERS if package == "*" else [package.removeprefix("ppsr.")]:
            folder = ROOT / name.replace(".", "/")
            for pattern in patterns:
                assert list(folder.glob(pattern)), f"{pattern} finds nothing in {folder.name}/"


def test_the_wheel_holds_weights_photo_page_and_types(wheel: list[str]) -> None:
    assert {
        "ppsr/calibration/coffee.webp",
        "ppsr/runtime/bench/page.html.j2",
        *(f"ppsr/models/pp_atd_light_x{scale}.safetensors" for scale in (2, 3, 4)),
        *(f"ppsr/{name}/py.typed" for name in FOLDERS),
    } <= set(wheel)


def test_the_wheel_holds_every_module(wheel: list[str]) -> None:
    modules = {
        f"ppsr/{path.relative_to(ROOT).as_posix()}"
        for name in FOLDERS
        for path in (ROOT / name).rglob("*.py")
    }
    assert modules == {name for name in wheel if name.endswith(".py")}


def test_the_wheel_has_one_top_level_name(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ppsr"}
