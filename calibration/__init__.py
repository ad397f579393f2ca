"""Pictures to verify and calibrate with: the sample photo and crops chosen by their purity."""

from __future__ import annotations

from .crops import Crop, sample_crops
from .photo import sample_photo

__all__ = ["Crop", "sample_crops", "sample_photo"]
