"""bfloat16 on a CPU: what must be kept out of it."""

from __future__ import annotations

import torch

from ppsr.models import build
from ppsr.models.camixer import CAMixer
from ppsr.training.precision import prepare


def test_gradients_of_dilated_depthwise_convolutions_are_those_of_float32() -> None:
    """torch 2.13 gives them garbage in bfloat16, channels last: NaN weights after a few steps."""
    torch.manual_seed(0)
    image, out = torch.randn(2, 4, 48, 32, 32)
    image = image.contiguous(memory_format=torch.channels_last)
    out = out.contiguous(memory_format=torch.channels_last)
    found = []
    for precision in ("fp32", "bf16"):
        network = build("camixer-atd-light", 2, weights=None, ratio=0.5)
        context = prepare(network, precision, torch.device("cpu"))
        mixer = next(one for one in network.modules() if isinstance(one, CAMixer))
        dilated = mixer.conv_sptial[1]
        torch.manual_seed(1)
        torch.nn.init.normal_(dilated.weight)
        with context:
            made = dilated(image if precision == "fp32" else image.bfloat16())
        made.backward(out)
        found.append(dilated.weight.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=0.5)
