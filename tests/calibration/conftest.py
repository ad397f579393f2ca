"""What the tests of the search share."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def noisy() -> Any:
    """The module ``noisy.py`` beside this file: a network whose noise is known."""
    spec = spec_from_file_location("noisy", Path(__file__).with_name("noisy.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # Where dataclasses look up their annotations.
    spec.loader.exec_module(module)
    return module
