"""What a benchmark says it ran on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from ppsr.runtime.bench import machine

X86 = """processor\t: 0
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC

processor\t: 1
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
"""
ARM = "processor\t: 0\nBogoMIPS\t: 2100.00\nCPU part\t: 0xd4f\n"


@pytest.mark.parametrize(
    ("text", "name"), [(X86, "AMD EPYC (family 26, model 2)"), (ARM, "aarch64")], ids=["x86", "arm"]
)
def test_a_cpu_is_told_from_its_elders(
    monkeypatch: pytest.MonkeyPatch, text: str, name: str
) -> None:
    """Virtual machines call several generations "AMD EPYC"."""
    monkeypatch.setattr(Path, "read_text", lambda _path: text)
    monkeypatch.setattr(platform, "processor", lambda: "aarch64")
    assert machine()["cpu"] == name
