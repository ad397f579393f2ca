"""What read_checkpoint takes, whatever its form, and the digest of it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save, save_file

from ppsr.models import build
from ppsr.models.checkpoint import read_checkpoint, weights_digest
from ppsr.models.config import Config
from ppsr.models.families import config_of


def same(read: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    return read.keys() == state.keys() and all(
        torch.equal(read[name], state[name]) for name in read
    )


@pytest.mark.parametrize("container", [None, "params", "params_ema"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_forms_are_read(state, saved, container, prefix):
    content = {prefix + name: tensor for name, tensor in state.items()}
    content[f"{prefix}relative_position_index_SA"] = torch.zeros(256, 256, dtype=torch.int64)
    read = read_checkpoint(saved({container: content} if container else content))
    assert same(read, state)
    assert config_of(read) == Config(scale=2)


def test_averaged_weights_are_preferred(state, saved):
    other = {name: tensor + 1 for name, tensor in state.items()}
    assert same(read_checkpoint(saved({"params": other, "params_ema": state})), state)


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.ckpt", "weights", "a.safetensors", "a.bin"])
def test_content_decides_not_the_suffix(state, tmp_path, name):
    path = tmp_path / name
    torch.save(state, path)
    assert same(read_checkpoint(path, 2), state)
    path.unlink()
    save_file(state, path)
    assert same(read_checkpoint(str(path), 2), state)


def test_old_torch_format_is_read(state, tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"params": state}, path, _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(path, 2), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(state, saved, dtype):
    stored = {name: tensor.to(dtype) for name, tensor in state.items()}
    read = read_checkpoint(saved(stored), 2)
    assert all(tensor.dtype == torch.float32 for tensor in read.values())
    assert same(read, {name: tensor.float() for name, tensor in stored.items()})


def test_parameters_and_views_become_plain_tensors(state, saved):
    name = "conv_first.bias"
    odd = {**state, name: torch.nn.Parameter(state[name].repeat_interleave(2)[::2])}
    read = read_checkpoint(saved(odd), 2)
    assert same(read, state)
    assert type(read[name]) is torch.Tensor
    assert not read[name].requires_grad
    assert read[name].is_contiguous()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scale_is_read_off_and_compared(refused, saved, scale):
    path = saved({"params_ema": build("atd-light", scale, weights=None).state_dict()})
    assert config_of(read_checkpoint(path)) == Config(scale=scale)
    assert len(read_checkpoint(path, scale)) == 682
    asked = 2 if scale != 2 else 4
    refused(path, f"for x{asked}", f"got weights for x{scale}", scale=asked)


def test_digest_does_not_depend_on_the_container(state, tmp_path):
    torch.save({"params": state}, tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(save(dict(reversed(state.items()))))
    digests = {weights_digest(read_checkpoint(tmp_path / f"w.{s}")) for s in ("pth", "safetensors")}
    assert digests == {weights_digest(state)}


def test_digest_sees_every_change():
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
    changed = [
        {**state, "a": state["a"].reshape(3, 2)},
        {**state, "a": state["a"].nextafter(torch.tensor(9.0))},
        {"a": state["a"], "c": state["b"]},
        {"a": state["a"]},
    ]
    assert len({weights_digest(other) for other in [state, *changed]}) == 5
    strided = {**state, "a": state["a"].T.contiguous().T}
    assert weights_digest(strided) == weights_digest(state)
    # Pinned: artefacts carry this number, so its definition must not drift.
    assert weights_digest({"a": torch.tensor([1.0, -2.0])}) == (
        "945469c5e48838a44bb841bf7ee003c35982abcd253f82f61dbbbee86ad156df"
    )
