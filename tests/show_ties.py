"""Show what one tie does: the eager network in FP32 beside itself in FP64, no ONNX involved.

A script, not a test: which crops hold a tie depends on the last bits of the machine's sums. The
numbers of docs/parity.md come from here: ``python tests/show_ties.py``.
"""

from __future__ import annotations

import torch

from ppsr.calibration.crops import sample_crops
from ppsr.calibration.photo import sample_photo
from ppsr.export.reference import Reference
from ppsr.models import build
from ppsr.runtime.metrics import psnr

SIZES = ((96, 130), *[(128, 192)] * 3, *[(64, 64)] * 2)

if __name__ == "__main__":
    single = Reference(build("pp-atd-light", 2))
    double = Reference(build("pp-atd-light", 2, dtype=torch.float64))
    for crop in sample_crops([("coffee", sample_photo())], SIZES):
        ours, theirs = single.run(crop.rgb), double.run(crop.rgb)
        moved = [
            int((a != b).sum())
            for a, b in zip(ours.choices.values(), theirs.choices.values(), strict=True)
        ]
        first = next((number for number in moved if number), 0)
        share = sum(moved) / max(1, len(ours.active) * len(moved))
        same = single.run(crop.rgb, theirs.choices)
        print(
            "{} x {} at {}, {}: ".format(*crop.rgb.shape[:2], crop.top, crop.left)
            + f"{len(ours.active)} active, first moved {first}, in the end {100 * share:.1f} %, "
            f"{psnr(ours.output.astype('f8'), theirs.output):.1f} dB; on equal categories "
            f"differs by {abs(same.output - theirs.output).max():.1e}"
        )
