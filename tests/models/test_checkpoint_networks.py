"""Checkpoints of another network, or with unfit tensors. One clear line each."""

from __future__ import annotations

import pytest
import torch

from ppsr.models.atd import ATD
from ppsr.models.config import Config

LAYER = "layers.0.residual_group.layers.0."
V2 = {
    "layers.0.residual_group.td": (128, 48),
    f"{LAYER}attn_atd.scale": (1,),
    f"{LAYER}convffn.fc_td.weight": (4, 48),
    "layers.0.norm.weight": (48,),
}
SWINIR = ["conv_first.weight", "layers.0.residual_group.blocks.0.norm1.weight", "norm.weight"]
EDSR = ["head.0.weight", "body.0.body.0.weight", "body.0.body.2.weight", "tail.1.weight"]


def zeros(names) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(4) for name in names}


@pytest.mark.parametrize("names", [SWINIR, EDSR, ["relative_position_index_SA", "a\nb" * 90]])
def test_another_network_is_named_by_its_keys(refused, saved, names):
    content = {**zeros(names), "attn_mask": torch.zeros(3, dtype=torch.int64)}
    shown = [name for name in names if name.isprintable() and "index" not in name]
    refused(saved(content), "got another network with", *shown[:3])


@pytest.mark.parametrize(
    "left_out", [[], ["layers.0.norm.weight"], [f"{LAYER}convffn.fc_td.weight"]]
)
def test_second_version_is_named(refused, saved, left_out):
    content = {name: torch.zeros(shape) for name, shape in V2.items() if name not in left_out}
    refused(saved({"params": content}), "expected ATD v1, got ATD v2.0", "v1 checkpoint")


def resized(**changes) -> dict[str, torch.Tensor]:
    return ATD(Config(**{"depths": (6, 6, 6, 6), **changes})).state_dict()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"channels": 96, "hidden": 96}, "channels 96 (ATD-light: 48), hidden 96"),
        ({"depths": (6, 6, 6)}, "depths (6, 6, 6) (ATD-light: (6, 6, 6, 6))"),
        ({"depths": (6, 6, 6, 5)}, "depths (6, 6, 6, 5)"),
        ({"heads": 6}, "heads 6 (ATD-light: 4)"),
        ({"window": 8}, "window 8 (ATD-light: 16)"),
        ({"dictionary": 128}, "dictionary 128"),
        ({"reduced": 12}, "reduced 12"),
        ({"hidden": 96}, "hidden 96"),
        ({"kernel": 5}, "kernel 5"),
    ],
)
def test_other_sizes_of_atd_are_named(refused, saved, changes, found):
    content = resized(**changes)
    assert len(content) > 500 or "depths" in changes
    refused(saved(content), "expected ATD-light, got an ATD with", found)


def test_full_size_atd_is_named_by_its_channels(refused, state, saved):
    content = {**state, "conv_first.weight": torch.zeros(210, 3, 3, 3)}
    content["upsample.0.weight"] = torch.zeros(256, 64, 3, 3)
    refused(saved(content), "channels 210 (ATD-light: 48)")


def test_unknown_scale_is_named(refused, state, saved):
    content = {**state, "upsample.0.weight": torch.zeros(192, 48, 3, 3)}
    refused(saved(content), "rows 12 (x2), 27 (x3), 48 (x4), got 192")


@pytest.mark.parametrize(
    "name",
    ["norm.bias", "layers.3.residual_group.layers.5.convffn.fc2.weight", "upsample.0.weight"],
)
def test_missing_tensor_is_named(refused, state, saved, name):
    refused(saved({key: tensor for key, tensor in state.items() if key != name}), name)


@pytest.mark.parametrize(
    "name", ["no_norm", "extra.weight", "layers.0.residual_group.layers.5.sigma"]
)
def test_unexpected_tensor_is_named(refused, state, saved, name):
    refused(saved({**state, name: torch.zeros(1)}), "682 tensors", f"1 unexpected ({name})")


def test_many_problems_are_counted(refused, state, saved):
    content = {
        name: tensor for name, tensor in state.items() if not name.startswith("layers.2.conv")
    }
    content |= zeros("abcde")
    refused(saved(content), "2 missing (layers.2.conv.weight, ", "5 unexpected (a, b, c, ...)")


@pytest.mark.parametrize("shape", [(3, 48), (48,), ()])
def test_wrong_shape_is_named(refused, state, saved, shape):
    path = saved({**state, "layers.1.residual_group.layers.2.wqkv.weight": torch.zeros(shape)})
    refused(path, f"layers.2.wqkv.weight of shape {shape} instead of (144, 48)")
    refused(
        saved({**state, "layers.0.residual_group.td": torch.zeros(64)}), "2 dimensions", "(64,)"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(refused, state, saved, value):
    spoilt = state["norm.weight"].clone()
    spoilt[7] = value
    refused(saved({**state, "norm.weight": spoilt}), "NaN or infinity in norm.weight")


def test_values_too_large_for_float32(refused, state, saved):
    large = torch.full((48,), 1e300, dtype=torch.float64)
    refused(saved({**state, "norm.weight": large}), "NaN or infinity in norm.weight")


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
)
def test_other_dtypes_are_named(refused, state, saved, dtype):
    content = {**state, "norm.weight": torch.zeros(48).to(dtype)}
    refused(saved(content), f"got {dtype} in norm.weight")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**12),
        torch.empty(10**12, device="meta"),
        torch.sparse_coo_tensor(size=(10**9, 10**9), check_invariants=True),
    ],
    ids=["stride 0", "meta", "sparse"],
)
def test_tensors_that_claim_more_than_they_hold(refused, state, saved, tensor):
    refused(saved({**state, "norm.weight": tensor}), "plain tensor", "norm.weight")
