"""A recipe is read as it was written, and what is wrong with one is said in a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppsr.calibration.recipe import Recipe, read_recipe, write_recipe
from ppsr.models.errors import UsageError

SHA = "24b756b7e16d" + "0" * 52
LAYERS = ("conv_first", "layers.0.0.wqkv", "layers.0.1.wqkv", "layers.1.0.wqkv", "upsample.0")
RECIPE = Recipe(
    model="pp-atd-light",
    scale=2,
    weights_sha256=SHA,
    layers={"layers.0.*.wqkv": "int8", "layers.0.1.wqkv": "fp16"},
    amax={"layers.0.0.wqkv/input": 3.25, "conv_first/input": 1e-05},
    estimator="entropy",
    max_psnr_drop=0.05,
    psnr_drop=-1.5e-05,
)
TEXT = RECIPE.to_text()


def one_line(error: pytest.ExceptionInfo[UsageError]) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_recipe(tmp_path / "r.toml", RECIPE)
    assert read_recipe(tmp_path / "r.toml") == RECIPE
    bare = replace(RECIPE, default="fp16", estimator="", max_psnr_drop=None, psnr_drop=None)
    assert Recipe.from_text(bare.to_text()) == bare
    assert '"layers.0.*.wqkv" = "int8"' in TEXT
    assert "\n[amax]\n" in TEXT


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.floats(1e-300, 1e300))
def test_any_name_and_any_number_survive(name: str, amax: float) -> None:
    recipe = replace(RECIPE, layers={name: "fp16"}, amax={name: amax})
    assert Recipe.from_text(recipe.to_text()) == recipe


def test_the_most_explicit_name_holds() -> None:
    assert [RECIPE.precision_of(layer) for layer in LAYERS] == [
        *("fp32", "int8", "fp16", "fp32", "fp32")
    ]
    backwards = replace(RECIPE, layers=dict(reversed(RECIPE.layers.items())), default="fp16")
    assert [backwards.precision_of(layer) for layer in LAYERS] == [
        *("fp16", "int8", "fp16", "fp16", "fp16")
    ]


def test_two_names_as_explicit_must_agree() -> None:
    torn = replace(RECIPE, layers={"layers.0.*.wqkv": "int8", "layers.*.0.wqkv": "fp16"})
    assert torn.precision_of("layers.1.0.wqkv") == "fp16"
    with pytest.raises(UsageError, match=r"layers\.0\.0\.wqkv two precisions, by") as error:
        torn.precision_of("layers.0.0.wqkv")
    one_line(error)
    agreed = replace(torn, layers=dict.fromkeys(torn.layers, "int8"))
    assert agreed.precision_of("layers.0.0.wqkv") == "int8"


def test_it_fits_the_network_it_was_made_for() -> None:
    assert RECIPE.require(LAYERS, "pp-atd-light", 2, SHA) == dict(
        zip(LAYERS, ("fp32", "int8", "fp16", "fp32", "fp32"), strict=True)
    )


@pytest.mark.parametrize(
    ("recipe", "network", "words"),
    [
        (RECIPE, ("atd-light", 2, SHA), "for the model pp-atd-light, got atd-light"),
        (RECIPE, ("pp-atd-light", 3, SHA), "for the scale 2, got 3"),
        (RECIPE, ("pp-atd-light", 2, "f" * 64), "for the weights 24b756b7e16d, got ffffffffffff"),
        (
            replace(RECIPE, layers={"layers.9.*.wqkv": "fp16"}),
            ("pp-atd-light", 2, SHA),
            "names layers.9.*.wqkv, which is no layer of pp-atd-light",
        ),
        (
            replace(RECIPE, layers={"layers.1.*.wqkv": "int8"}),
            ("pp-atd-light", 2, SHA),
            "puts layers.1.0.wqkv in int8 without the range of layers.1.0.wqkv/input",
        ),
    ],
)
def test_another_network_refuses_it(
    recipe: Recipe, network: tuple[str, int, str], words: str
) -> None:
    with pytest.raises(UsageError) as error:
        recipe.require(LAYERS, *network)
    assert words in one_line(error)


REFUSED = {
    "no TOML": ("model = [", "is no recipe ("),
    "another TOML": ('[project]\nname = "ppsr"\n', "has an unknown key 'project'"),
    "a word more": (f'speed = "high"\n{TEXT}', "has an unknown key 'speed'"),
    "no default": (TEXT.replace('default = "fp32"', ""), "lacks 'default'"),
    "other default": (TEXT.replace('default = "fp32"', 'default = "int8"'), "default of fp32,"),
    "model": (TEXT.replace("pp-atd-light", "swinir"), "camixer-atd-light, adaformer, got"),
    "scale": (TEXT.replace("scale = 2", "scale = 5"), "a scale of 2, 3, 4, got 5"),
    "scale as text": (TEXT.replace("scale = 2", 'scale = "2"'), "a whole number as 'scale'"),
    "precision": (TEXT.replace('"fp16"', '"int4"'), "a precision of layers.0.1.wqkv of fp32,"),
    "a layer is a number": (TEXT.replace('"fp16"', "16"), "a table of texts as 'layers'"),
    "a range is 0": (TEXT.replace("3.25", "0"), "an amax above 0 for layers.0.0.wqkv/input, got 0"),
    "a range is negative": (TEXT.replace("3.25", "-1.0"), "an amax above 0 for"),
    "a range is nan": (TEXT.replace("3.25", "nan"), "a table of numbers as 'amax'"),
    "a range is true": (TEXT.replace("3.25", "true"), "a table of numbers as 'amax'"),
    "layers is a text": (TEXT.replace("[layers]", "layers = 'a'\n[x]"), "unknown key 'x'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_recipe_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, words = REFUSED[name]
    assert text != TEXT
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_recipe(path)
    assert words in one_line(error)
    assert one_line(error).startswith(("expected", str(path)))
    assert str(path) in one_line(error)
    assert "ppsr-calibrate" in one_line(error)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the recipe .*: No such file"):
        read_recipe(tmp_path / "no.toml")
    with pytest.raises(UsageError, match=r"cannot read the recipe .*: Is a directory"):
        read_recipe(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"it is no UTF-8 text"):
        read_recipe(tmp_path / "b.toml")
