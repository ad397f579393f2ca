"""Parity of real graphs with the eager network, and that no wrong graph passes for a right one.

Tolerances. With one set of categories both compute the same sums in another order: 1e-6 on values
around 1 is what is seen, 1e-4 what is allowed. A category that differs must be tied with the best
to 1e-4 of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ppsr.export import verify as verify_module
from ppsr.export.compose import join_front_end, write_metadata
from ppsr.export.naming import name_nodes
from ppsr.export.reference import Reference
from ppsr.export.rounding import round_fp16
from ppsr.export.trace import trace_front_end
from ppsr.export.verify import MAX_GAP, MAX_PEAK, MIN_PSNR_FP16, GraphRun, Parity, verify
from ppsr.models.atd import ATD
from ppsr.models.config import PurePass
from ppsr.models.errors import ArtefactError, ParityError
from ppsr.models.pure_pass import active_tokens, pad_to_grid, pure_pixels
from ppsr.models.routing import PurityMask
from ppsr.runtime.artefact import OUTPUT

ATOL = 1e-4
SIZES = ((16, 16), (17, 40), (64, 64), (37, 50), (128, 192), (16, 400))
FINE = Parity(64, 64, 1000, 60.0, 0.0, 1e-6, 0, 0.0)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "{}x{}".format(*size))
@pytest.mark.parametrize(
    ("name", "form", "optimise"),
    [
        ("pp-atd-light", "routed", True),
        ("pp-atd-light", "self-contained", False),
        ("atd-light", "routed", False),
        ("atd-light", "self-contained", True),
    ],
)
def test_fp32_graphs_do_what_the_network_does(
    running: Callable,
    network: Callable,
    crops: Callable,
    name: str,
    form: str,
    optimise: bool,
    size: tuple[int, int],
) -> None:
    rgb = crops(*SIZES)[SIZES.index(size)].rgb
    report = running(name, form, optimise=optimise).compare(Reference(network(name)), rgb)
    print(f"{size}: free {report.psnr:.1f} dB, {report}")
    assert report.max_abs <= ATOL
    assert report.gap <= MAX_GAP
    assert report.failure("fp32", ATOL) is None
    padded = pad_to_grid(rgb)
    dense = padded.shape[0] * padded.shape[1]
    routed = len(active_tokens(pure_pixels(padded)))
    assert (report.height, report.width) == size
    assert report.active == (routed if name == "pp-atd-light" else dense)
    assert report.peak is None


def test_the_pictures_cover_the_range_of_purity(crops: Callable) -> None:
    shares = [crop.pure for crop in crops(*SIZES)]
    assert min(shares) < 0.2
    assert max(shares) > 0.6


@pytest.mark.parametrize("form", ["routed", "self-contained"])
def test_fp16_graphs(running: Callable, network: Callable, photo: Callable, form: str) -> None:
    """Of the first layers; the whole network is in test_precision."""
    report = running("tiny", form, fp16=True).compare(Reference(network()), photo())
    assert report.failure("fp16", ATOL) is None
    assert report.psnr < 90
    assert report.peak is not None
    assert 1 < report.peak < MAX_PEAK


def perturbed(network: ATD, path: str, factor: float = 1.01) -> ATD:
    changed = copy.deepcopy(network)
    with torch.no_grad():
        changed.get_parameter(path).mul_(factor)
    return changed


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("pp-atd-light", "layers.2.residual_group.layers.3.attn_win.proj.weight"),
        ("pp-atd-light", "layers.2.residual_group.layers.3.attn_aca.proj.weight"),
        ("pp-atd-light", "layers.1.residual_group.layers.2.attn_atd.wv.weight"),
        ("atd-light", "layers.0.residual_group.layers.0.attn_aca.logit_scale"),
        ("atd-light", "conv_first.weight"),
    ],
)
def test_a_weight_changed_by_a_hundredth_is_seen(
    running: Callable, network: Callable, photo: Callable, name: str, path: str
) -> None:
    rgb = photo()
    run = running(name)
    assert run.compare(Reference(network(name)), rgb).failure("fp32", ATOL) is None
    assert (
        run.compare(Reference(perturbed(network(name), path)), rgb).failure("fp32", ATOL)
        is not None
    )


def test_verify_raises_at_a_changed_weight(
    graph: Callable, network: Callable, photo: Callable
) -> None:
    path = "layers.0.residual_group.layers.1.attn_win.proj.weight"
    reports = verify(*graph(), Reference(network()), [photo()], ATOL)
    assert [(report.height, report.width) for report in reports] == [(37, 50)]
    with pytest.raises(ParityError, match=r"_routed does not do .* 37 x 50: .*nothing was written"):
        verify(*graph(), Reference(perturbed(network(), path, 1.1)), [photo()], ATOL)


def scaled_output(model: onnx.ModelProto, factor: float, add: float = 0) -> onnx.ModelProto:
    """output -> factor output + add."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        node.output[:] = ["true" if name == OUTPUT else name for name in node.output]
    changed.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(factor), "factor"))
    changed.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(add), "add"))
    changed.graph.node.append(helper.make_node("Mul", ["true", "factor"], ["part"]))
    changed.graph.node.append(helper.make_node("Add", ["part", "add"], [OUTPUT]))
    return changed


@pytest.mark.parametrize(
    ("factor", "add", "message"),
    [
        (0, 0, "outputs differ by"),
        (1, 2e-4, r"outputs differ by 0.0002, allowed is 0.0001"),
        (1.001, 0, "outputs differ by"),
        (1, np.nan, "the output is not finite"),
        (np.inf, 0, "the output is not finite"),
    ],
)
def test_no_other_output_passes(
    graph: Callable, network: Callable, photo: Callable, factor: float, add: float, message: str
) -> None:
    model, artefact = graph()
    with pytest.raises(ParityError, match=message):
        verify(scaled_output(model, factor, add), artefact, Reference(network()), [photo()], ATOL)


def test_fp16_passes_no_zeros(graph: Callable, network: Callable, photo: Callable) -> None:
    model, artefact = graph(fp16=True)
    with pytest.raises(ParityError, match=r"outputs differ by .*, allowed is 0.005"):
        verify(scaled_output(model, 0), artefact, Reference(network()), [photo()], ATOL)


class Inverted(PurePass):
    """Active tokens rest, pure ones take part."""

    def mask(self, padded: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        return ~super().mask(padded)


class OneMore(PurePass):
    """The first window with an active token counts as pure."""

    def mask(self, padded: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        pure = super().mask(padded)
        y, x = np.argwhere(~pure)[0] // 8 * 8
        pure[y : y + 8, x : x + 8] = True
        return pure


class OneLess(PurePass):
    """The first pure window counts as active."""

    def mask(self, padded: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        pure = super().mask(padded)
        y, x = np.argwhere(pure)[0] // 8 * 8
        pure[y : y + 8, x : x + 8] = False
        return pure


@pytest.mark.parametrize(
    "kind",
    [
        Inverted,
        OneLess,
        OneMore,
    ],
)
@pytest.mark.parametrize("optimise", [False, True], ids=["as-is", "optimised"])
def test_a_flipped_mask_is_seen(
    graph: Callable, network: Callable, crops: Callable, kind: type[PurePass], optimise: bool
) -> None:
    model, artefact = graph()
    pictures = [crop.rgb for crop in crops(*SIZES) if 0.1 < crop.pure < 0.9][:1]
    verify(model, artefact, Reference(network()), pictures, ATOL, optimise=optimise)
    with pytest.raises(ParityError):
        verify(
            model,
            replace(artefact, pure_pass=kind()),
            Reference(network()),
            pictures,
            ATOL,
            optimise=optimise,
        )


def test_a_front_end_that_routes_otherwise_is_seen(
    body: Callable, graph: Callable, network: Callable, crops: Callable
) -> None:
    other = copy.deepcopy(network())
    other.purity = PurityMask(PurePass(shift=0))
    front = name_nodes(trace_front_end(other, 20), root="front")
    artefact = graph("tiny", "self-contained")[1]
    model = write_metadata(join_front_end(body(), front, 2), artefact)
    pictures = [crop.rgb for crop in crops(*SIZES) if 0.1 < crop.pure < 0.9][:1]
    with pytest.raises(ParityError):
        verify(model, artefact, Reference(network()), pictures, ATOL)


def test_a_category_that_is_no_tie_is_seen(
    graph: Callable, network: Callable, photo: Callable
) -> None:
    """A graph that takes the worst category: imposed on the network, it gives the same picture."""
    source, artefact = graph()
    model = onnx.ModelProto()
    model.CopyFrom(source)
    model.graph.ClearField("node")
    for node in source.graph.node:
        if node.op_type == "ArgMax":
            flipped = [f"{node.output[0]}/negated"]
            model.graph.node.append(helper.make_node("Neg", node.input, flipped))
            kind, name = node.op_type, node.name
            node = helper.make_node(kind, flipped, node.output, name, axis=-1, keepdims=0)
        model.graph.node.append(node)
    report = GraphRun(model, artefact).compare(Reference(network()), photo())
    assert report.max_abs <= ATOL
    assert report.flipped > 0.9
    assert report.ties > 1000
    assert report.gap > 0.5
    assert "off by" in str(report.failure("fp32", ATOL))


@pytest.mark.parametrize(
    ("changes", "precision", "message"),
    [
        ({}, "fp32", None),
        ({}, "fp16", None),
        ({"max_abs": 1.01e-4}, "fp32", "outputs differ by 0.0001, allowed is 0.0001"),
        ({"max_abs": 1e-3}, "fp16", None),
        ({"max_abs": np.nan}, "fp32", "not finite"),
        ({"max_abs": np.inf}, "fp16", "not finite"),
        ({"gap": 2 * MAX_GAP}, "fp32", "category or choice is off by 2.0e-04, no tie"),
        ({"gap": MAX_GAP, "ties": 9}, "fp32", None),
        ({"gap": 0.5}, "fp16", None),
        ({"psnr": MIN_PSNR_FP16 - 0.1}, "fp16", "agree to 39.9 dB, needed are 40"),
        ({"psnr": 30.0}, "fp32", None),
        *(({"psnr": 35.0, "max_abs": 0.3}, kind, None) for kind in ("int8", "mixed")),
        *(({"psnr": 34.9}, kind, "agree to 34.9 dB, needed are 35") for kind in ("int8", "mixed")),
        ({"max_abs": np.nan}, "int8", "not finite"),
        ({"peak": 16_500.0}, "mixed", "an FP16 tensor reaches 16500"),
        ({"peak": MAX_PEAK}, "fp16", None),
        ({"peak": 16_500.0}, "fp16", "an FP16 tensor reaches 16500, allowed is 16000"),
        ({"peak": np.inf}, "fp16", "reaches inf"),
        ({"peak": np.nan}, "fp16", "reaches nan"),
    ],
)
def test_what_counts_as_failure(
    changes: dict[str, Any], precision: str, message: str | None
) -> None:
    problem = replace(FINE, **changes).failure(precision, ATOL)
    assert (problem is None) == (message is None)
    assert (message or "") in (problem or "")


def test_peaks_of_all_runs_are_kept(running: Callable, network: Callable, photo: Callable) -> None:
    run = GraphRun.__new__(GraphRun)
    run.__dict__.update(running("tiny", fp16=True).__dict__)
    run.peaks = None
    first = run.compare(Reference(network()), photo("coffee", 16, 16))
    second = run.compare(Reference(network()), photo("chelsea", 24, 40))
    assert run.peaks is not None
    assert len(run.peaks) == len(run.tensors) > 50
    assert run.peaks.max() == max(first.peak or 0, second.peak or 0)


def test_fp16_sees_a_changed_weight_and_a_mirrored_mask(
    graph: Callable, network: Callable, photo: Callable, crops: Callable
) -> None:
    """Two faults that keep the free PSNR above its floor: equal categories, equal routing."""
    model, artefact = graph(fp16=True)
    verify(model, artefact, Reference(network()), [photo()])
    silent = perturbed(network(), "layers.0.residual_group.layers.1.convffn.fc2.weight", 0.5)
    with pytest.raises(ParityError, match="outputs differ by"):
        verify(model, artefact, Reference(silent), [photo()])

    class Mirrored(PurePass):
        def mask(self, padded: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
            return np.ascontiguousarray(super().mask(padded)[:, ::-1])

    mirrored = replace(artefact, pure_pass=Mirrored())
    mixed = next(crop.rgb for crop in crops(*SIZES) if 0.1 < crop.pure < 0.9)
    with pytest.raises(ParityError, match="routes other tokens"):
        verify(model, mirrored, Reference(network()), [mixed])


def test_the_file_itself_is_run(
    graph: Callable, network: Callable, photo: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An FP16 check runs a rewritten graph: what onnxruntime makes of the file counts too."""
    model, artefact = graph(fp16=True)
    broken = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in broken.graph.initializer:
        if tensor.name.endswith("convffn.fc1.bias_fp16"):
            tensor.data_type = TensorProto.FLOAT
            tensor.raw_data = np.frombuffer(tensor.raw_data, np.float16).astype("<f4").tobytes()
    assert broken.SerializeToString() != model.SerializeToString()
    monkeypatch.setattr(verify_module, "round_fp16", lambda _: round_fp16(model))
    with pytest.raises(ArtefactError, match="no ONNX file that onnxruntime can load"):
        verify(broken, artefact, Reference(network()), [photo()])
