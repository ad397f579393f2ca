"""Files that are no checkpoint: damaged, hostile, or something else. One clear line each."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file


def test_missing_file_and_folder(refused, tmp_path):
    refused(tmp_path / "none.pth", "no such file")
    refused(tmp_path, "a folder")
    refused("a\0b.pth")


@pytest.mark.parametrize("content", [b"", b"PK", b"hello world, this is text", b"\x08\x0a" * 50])
def test_other_files(refused, tmp_path, content):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    refused(path, "empty file" if not content else "starts with")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["pth", "old", "safetensors"])
def test_truncated_files(refused, state, tmp_path, kind, share):
    path = tmp_path / "cut.pth"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pth")
    os.truncate(path, int(path.stat().st_size * share))
    refused(path, "damaged")


class Touch:
    """Unpickling it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


class Shell(Touch):
    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("hostile", [Touch, Shell])
@pytest.mark.parametrize("form", ["zip", "old", "bare", "bare safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_never_run(refused, state, tmp_path, hostile, form):
    trace = tmp_path / "trace"
    content = {**state, "conv_first.weight": hostile(str(trace))}
    path = tmp_path / ("w.safetensors" if "safetensors" in form else "w.pth")
    if form.startswith("bare"):
        path.write_bytes(pickle.dumps({"params": hostile(str(trace))}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    refused(path, "tensors only", "never run")
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile(str(trace))))
    assert trace.exists(), "the pickle of this test is harmless"


def test_torchscript_archives_are_refused(refused, tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("script/constants.pkl", pickle.dumps(()))
        file.writestr("script/data.pkl", pickle.dumps({}))
        file.writestr("script/version", "3")
    refused(path)


def test_arrays_of_numpy_are_refused(refused, tmp_path):
    np.savez(tmp_path / "w.npz", weight=np.zeros(3))
    refused(tmp_path / "w.npz", "damaged file or one with other objects")


def header(entries: dict[str, object], length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        header({"a": ENTRY}, 2**63),
        header({"a": ENTRY}, 2**31) + bytes(8),
        header({"a": ENTRY}) + bytes(4),
        header({"a": {**ENTRY, "data_offsets": [0, 2**60]}}) + bytes(8),
        header({"a": {**ENTRY, "data_offsets": [8, 0]}}) + bytes(8),
        header({"a": {**ENTRY, "shape": [2**62, 2**62]}}) + bytes(8),
        header({"a": {**ENTRY, "shape": [-2]}}) + bytes(8),
        header({"a": {**ENTRY, "dtype": "F99"}}) + bytes(8),
        header({"a": ENTRY, "b": ENTRY}) + bytes(8),
        header({"a": "text"}) + bytes(8),
        struct.pack("<Q", 9) + b'{"\xff\xfe": 1}',
        struct.pack("<Q", 60000) + b"{" * 60000,
    ],
    ids=range(12),
)
def test_hostile_safetensors_headers(refused, tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    refused(path, "got a damaged one")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([torch.zeros(3)], "list"),
        (torch.zeros(3), "Tensor"),
        ({}, "an empty dict"),
        ({"params": {}}, "an empty dict"),
        ({"epoch": 3}, "int under epoch"),
        ({"params_ema": {"conv_first.weight": [1.0]}}, "list under conv_first.weight"),
        ({"state_dict": {"a": torch.zeros(1)}}, "dict under state_dict"),
        ({3: torch.zeros(1)}, "Tensor under 3"),
    ],
)
def test_no_dict_of_tensors(refused, saved, content, found):
    refused(saved(content), f"expected a dict of tensors, got {found}")
