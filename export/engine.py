"""TensorRT engines: which flavour is installed. Building them is not part of this version."""

from __future__ import annotations

from importlib.util import find_spec

FLAVOURS = ("tensorrt", "tensorrt_rtx")
"""Module of each flavour."""


def why_no_engine() -> str:
    """Say in one line why an export ends with ONNX files."""
    found = [module for module in FLAVOURS if find_spec(module)]
    if not found:
        return "No TensorRT engine was built: neither tensorrt nor tensorrt-rtx is installed."
    return (
        f"No TensorRT engine was built: this version does not build engines yet "
        f"({', '.join(found)} is installed; the _routed file is what it will build from)."
    )
