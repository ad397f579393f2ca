"""The savers of libvips, and what they leave undone: an image that is read once -> a file.

PNG, JPEG and TIFF are written as the image is read; WebP and AVIF need all of it in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import pyvips

from .containers import avif_with_exif, block_for, jpeg_head, png_head, webp_with_exif
from .metadata import Metadata
from .tiff import add_metadata

BIG_TIFF = 4 * 10**9
"""From so many bytes of pixels on a TIFF is a BigTIFF; the other holds 4 GiB."""

OPTIMISED = 2**22
"""JPEGs of fewer pixels are made a few percent smaller."""

_EXIF, _XMP, _IPTC, _ICC = 1, 2, 4, 8  # VipsForeignKeep


def save_png(image: Any, file: BinaryIO, metadata: Metadata, quality: int | None) -> None:
    """Write 8 or 16 bits."""
    with _behind(file, 33, png_head(metadata)) as target:
        image.pngsave_target(target, compression=6, filter="all", keep=0)


def save_jpeg(image: Any, file: BinaryIO, metadata: Metadata, quality: int | None) -> None:
    """Write 8 bits with all chroma; alpha is laid on white."""
    if image.hasalpha():
        image = image.flatten(background=255)
    with _behind(file, 2, jpeg_head(metadata)) as target:
        image.jpegsave_target(
            target,
            Q=quality or 95,
            subsample_mode="off",
            # To optimise, libjpeg keeps all of the picture, 14 bytes a pixel.
            optimize_coding=image.width * image.height < OPTIMISED,
            keep=_ICC | _XMP | _IPTC,
        )


def save_tiff(image: Any, file: BinaryIO, metadata: Metadata, quality: int | None) -> None:
    """Write 8 or 16 bits or 32-bit float; as BigTIFF where 4 GB may not suffice."""
    samples = image.width * image.height * image.bands
    image.tiffsave_target(
        pyvips.Target.new_to_descriptor(file.fileno()),
        compression="deflate",
        predictor="float" if image.format == "float" else "horizontal",
        resunit="inch",
        bigtiff=samples * {"uchar": 1, "ushort": 2}.get(image.format, 4) >= BIG_TIFF,
        keep=_ICC | _XMP,
    )
    if metadata.exif is not None or metadata.iptc is not None:
        add_metadata(file, metadata.exif, metadata.iptc)


def save_webp(image: Any, file: BinaryIO, metadata: Metadata, quality: int | None) -> None:
    """Write 8 bits: lossless, colours below no alpha included, where no quality is given."""
    chosen = {"lossless": True, "exact": True} if quality is None else {"Q": quality}
    data = image.webpsave_buffer(keep=_ICC | _XMP, **chosen)
    block = block_for(metadata)
    if block is not None:
        size = (image.height, image.width)
        data = webp_with_exif(data, block, size, bool(image.hasalpha()))
    file.write(data)


def save_avif(image: Any, file: BinaryIO, metadata: Metadata, quality: int | None) -> None:
    """Write 8 bits, or 12 of 16: lossless where no quality is given."""
    chosen: dict[str, Any] = {"lossless": True} if quality is None else {"Q": quality}
    if image.format == "ushort":
        # libvips would cut the last bits off.
        rounded = (image * (4095 / 65535)).rint().cast("ushort") << 4
        image = rounded.copy(interpretation=image.interpretation)
        chosen["bitdepth"] = 12
    block = block_for(metadata)
    keep = _ICC | _XMP | (_EXIF if block is not None else 0)
    data = image.heifsave_buffer(compression="av1", keep=keep, **chosen)
    file.write(data if block is None else avif_with_exif(data, block))


SAVERS: Final = {
    "png": save_png,
    "jpeg": save_jpeg,
    "tiff": save_tiff,
    "webp": save_webp,
    "avif": save_avif,
}


@contextmanager
def _behind(file: BinaryIO, first: int, inserted: bytes) -> Iterator[Any]:
    """Give a target for libvips; ``inserted`` comes behind the first bytes that it is given."""
    descriptor = file.fileno()
    os.lseek(descriptor, len(inserted), os.SEEK_SET)
    yield pyvips.Target.new_to_descriptor(descriptor)
    os.lseek(descriptor, len(inserted), os.SEEK_SET)
    start = os.read(descriptor, first)
    os.lseek(descriptor, 0, os.SEEK_SET)
    file.write(start + inserted)
    file.flush()
