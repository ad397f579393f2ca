"""build(): names, weights, determinism, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ppsr.models import build
from ppsr.models.atd import ATD
from ppsr.models.checkpoint import read_checkpoint, weights_digest
from ppsr.models.config import Config, PurePass
from ppsr.models.errors import CheckpointError


def python(code: str) -> str:
    """Run ``code`` in a fresh interpreter; warnings are errors there too."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module", ["models", "models.pure_pass", "models.flops", "models.config", "models.errors"]
)
def test_importing_does_not_need_torch(module):
    code = f"import sys; sys.modules['torch'] = None; import ppsr.{module}; print('ok')"
    assert python(code) == "ok"
    assert python(f"import sys, ppsr.{module}; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize(
    "first",
    [
        "from ppsr.models import build",
        "import ppsr.models; ppsr.models.build",
        "import ppsr.models.checkpoint",
        "from ppsr.models import purity_mask",
    ],
)
def test_build_is_a_function_however_it_is_reached(first):
    code = f"{first}\nimport ppsr.models\nfrom ppsr.models import build\nfrom ppsr.models import *"
    assert python(f"{code}\nprint(callable(build), callable(ppsr.models.build))") == "True True"


def test_unknown_attribute_is_an_attribute_error():
    import ppsr.models

    with pytest.raises(AttributeError, match="bild"):
        _ = ppsr.models.bild


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["atd-light", "pp-atd-light"])
def test_shipped_weights_are_loaded_as_they_are(root, name, scale):
    network = build(name, scale)
    stored = load_file(root / "models" / f"pp_atd_light_x{scale}.safetensors")
    state = network.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[key], stored[key]) for key in stored)
    assert network.weights_sha256 == weights_digest(stored)
    assert isinstance(network, ATD)
    assert network.config.name == name
    assert network.scale == network.config.scale == scale
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_weights_of_a_file(tmp_path, scale):
    source = build("atd-light", scale, weights=None)
    for name in ("w.pth", "w.safetensors"):
        path = tmp_path / name
        if path.suffix == ".pth":
            torch.save({"params_ema": source.state_dict()}, path)
        else:
            save_file(source.state_dict(), path)
        for given in (path, str(path)):
            network = build("pp-atd-light", scale, given)
            assert network.weights_sha256 == source.weights_sha256
            assert weights_digest(network.state_dict()) == source.weights_sha256


def test_weights_of_another_scale_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(build("atd-light", 3, weights=None).state_dict(), path)
    with pytest.raises(CheckpointError, match="for x2, got weights for x3"):
        build("atd-light", 2, path)


def test_random_weights_are_the_same_every_time():
    torch.manual_seed(1)
    first = build("atd-light", 2, weights=None)
    torch.manual_seed(2)
    second = build("pp-atd-light", 2, weights=None)
    state = second.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in first.state_dict().items())
    assert first.weights_sha256 == second.weights_sha256 == weights_digest(first.state_dict())
    assert first.weights_sha256 != build("atd-light", 2).weights_sha256


@pytest.mark.parametrize("weights", ["default", None])
def test_global_generator_is_left_alone(weights):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build("pp-atd-light", 2, weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_reading_weights_leaves_the_generator_alone(root):
    before = torch.get_rng_state()
    read_checkpoint(root / "models" / "pp_atd_light_x2.safetensors", 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_is_a_cast_of_the_weights(dtype):
    network, reference = build("pp-atd-light", 2, dtype=dtype), build("pp-atd-light", 2)
    cast = {key: tensor.to(dtype) for key, tensor in reference.state_dict().items()}
    assert all(torch.equal(tensor, cast[key]) for key, tensor in network.state_dict().items())
    assert network.weights_sha256 == reference.weights_sha256


def test_routing_can_be_replaced():
    settings = PurePass(shift=0, compensation=False)
    assert build("pp-atd-light", 2).config == Config(scale=2, pure_pass=PurePass())
    assert build("pp-atd-light", 2, pure_pass=settings).config.pure_pass == settings
    assert build("atd-light", 2).config == Config(scale=2)
    with pytest.raises(ValueError, match="expected pure_pass=None"):
        build("atd-light", 2, pure_pass=settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("atd", 2), "atd-light, camixer-atd-light, adaformer, got 'atd'"),
        (("", 2), "expected a model"),
        (("atd-light", 5), "expected a scale of 2, 3, 4, got 5"),
        (("atd-light", 0), "expected a scale"),
        (("atd-light", 2.0), "expected a scale of 2, 3, 4, got 2.0"),
        (("atd-light", True), "expected a scale of 2, 3, 4, got True"),
        (("atd-light", 2, None, torch.int32), "expected a floating-point dtype, got torch.int32"),
        (("atd-light", 2, None, torch.complex64), "expected a floating-point dtype"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(*arguments)
