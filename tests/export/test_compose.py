"""The self-contained graph is the routed one between a front end and a crop, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from skimage import data

from ppsr.export.compose import join_front_end, write_metadata
from ppsr.models.pure_pass import active_tokens, pad_to_grid, pure_pixels
from ppsr.runtime.artefact import ACTIVE, INPUT, OUTPUT, Artefact
from ppsr.runtime.ort import open_session

SIZES = [(8, 8), (8, 31), (15, 9), (16, 16), (17, 40), (33, 32), (37, 50), (16, 400)]


def to_image(rgb: np.ndarray) -> np.ndarray:
    """uint8 H W 3 -> float32 1 3 H W in [0, 1]."""
    return np.ascontiguousarray(rgb.transpose(2, 0, 1)[None]).astype(np.float32) / 255


@pytest.fixture(scope="module")
def routing(front_end: Callable) -> Callable[[np.ndarray], list[np.ndarray]]:
    """``routing(rgb)``: padded picture and active tokens, from the graph's front end alone."""
    session = open_session(front_end().SerializeToString(), threads=1)
    return lambda rgb: session.run(None, {INPUT: to_image(rgb)})


@pytest.mark.parametrize("size", [*SIZES, (300, 430)])
def test_front_end_is_host_routing_bit_for_bit(
    routing: Callable, photo: Callable, size: tuple[int, int]
) -> None:
    for name in ("coffee", "astronaut"):
        rgb = photo(name, *size, top=0)
        expected = pad_to_grid(rgb)
        padded, active = routing(rgb)
        np.testing.assert_array_equal(padded, to_image(expected))
        np.testing.assert_array_equal(active, active_tokens(pure_pixels(expected)))
        assert active.dtype == np.int64


def test_greys_and_noise_route_alike(routing: Callable) -> None:
    """Every grey is a tie between two colour centres."""
    grey = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    flat = np.full((19, 40, 3), 7, np.uint8)
    counts = []
    for rgb in (grey, np.kron(grey, np.ones((8, 8, 1), np.uint8)), noise, flat):
        expected = active_tokens(pure_pixels(pad_to_grid(rgb)))
        np.testing.assert_array_equal(routing(rgb)[1], expected)
        counts.append(len(expected))
    assert counts[-2:] == [48 * 64, 0]


@pytest.mark.parametrize("size", SIZES)
def test_self_contained_is_routed_and_cropped(
    running: Callable, photo: Callable, size: tuple[int, int]
) -> None:
    rgb = photo("coffee", *size)
    padded = pad_to_grid(rgb)
    feed = {INPUT: to_image(padded), ACTIVE: active_tokens(pure_pixels(padded))}
    (whole,) = running("tiny", "routed").session.run([OUTPUT], feed)
    (got,) = running("tiny", "self-contained").session.run([OUTPUT], {INPUT: to_image(rgb)})
    height, width = size
    assert got.shape == (1, 3, 2 * height, 2 * width)
    np.testing.assert_array_equal(got, whole[..., : 2 * height, : 2 * width])


def test_dense_front_end_only_pads(graph: Callable, front_end: Callable) -> None:
    model, _ = graph("atd-light", "self-contained")
    assert [value.name for value in front_end("atd-light").graph.output] == ["padded"]
    assert [value.name for value in model.graph.input] == [INPUT]


def test_joining_leaves_its_arguments_alone(body: Callable, front_end: Callable) -> None:
    front = front_end()
    before = front.SerializeToString(), body().SerializeToString()
    join_front_end(body(), front, 2)
    assert (front.SerializeToString(), body().SerializeToString()) == before


def test_names_of_both_parts_do_not_meet(graph: Callable) -> None:
    model, _ = graph("pp-atd-light", "self-contained")
    outputs = [name for node in model.graph.node for name in node.output]
    everything = [*outputs, *(tensor.name for tensor in model.graph.initializer), INPUT]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("form", ["routed", "self-contained"])
@pytest.mark.parametrize("name", ["pp-atd-light", "atd-light"])
def test_the_stamp_tells_what_the_file_is(
    graph: Callable, name: str, form: str, fp16: bool
) -> None:
    model, artefact = graph(name, form, fp16=fp16)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert Artefact.from_metadata(metadata, "it") == artefact
    assert (artefact.model, artefact.form) == (name, form)
    assert artefact.precision == ("fp16" if fp16 else "fp32")
    assert (model.producer_name, model.producer_version) == ("ppsr", artefact.version)
    assert model.graph.name == artefact.stem
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes.pop(ACTIVE, ["tokens"]) == ["tokens"]
    assert shapes == {
        INPUT: [1, 3, "height", "width"],
        OUTPUT: [1, 3, "2*height", "2*width"],
    }
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("form", ["routed", "self-contained"])
@pytest.mark.parametrize("name", ["pp-atd-light", "atd-light"])
def test_the_file_holds_little_but_the_weights(
    graph: Callable, network: Callable, name: str, form: str
) -> None:
    content = graph(name, form)[0].SerializeToString()
    weights = 4 * sum(parameter.numel() for parameter in network(name).parameters())
    assert weights == 753_204 * 4
    assert weights < len(content) < 1.25 * weights
    for word in (b"/home", b"/work", b"/usr", b"site-packages", b".py", b"stack_trace", b"File "):
        assert word not in content


@pytest.mark.parametrize("form", ["routed", "self-contained"])
def test_the_file_is_one_and_has_no_notes(graph: Callable, form: str) -> None:
    model = graph("pp-atd-light", form)[0]
    assert all(tensor.data_location == 0 for tensor in model.graph.initializer)
    parts = (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output)
    assert not any(part.doc_string for part in (model, model.graph, *parts))
    assert not any(part.metadata_props for part in (model.graph, *parts))
    assert not model.functions


def test_stamping_leaves_its_argument_alone(body: Callable, graph: Callable) -> None:
    before = body().SerializeToString()
    write_metadata(body(), graph()[1])
    assert body().SerializeToString() == before


def test_photos_have_tokens_of_both_kinds() -> None:
    """Else the comparisons above would say little."""
    for name in ("coffee", "astronaut"):
        assert 0.2 < pure_pixels(pad_to_grid(getattr(data, name)())).mean() < 0.8
