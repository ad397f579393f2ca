"""Damaged files: one line says so, or all rows can be read. Nothing crashes, hangs or prints."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms
from skimage import data

from ppsr.models.errors import PictureError
from ppsr.runtime.pictures.decode import open_picture
from ppsr.runtime.pictures.formats import can_write_avif

SEED = 20261120
TRIES = 3
LONGEST = 5.0  # Seconds.

RGB = np.ascontiguousarray(data.coffee()[:47, :61])
RGBA = np.dstack([RGB, RGB[..., 1]])
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'


def pillow(picture: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6
    exif.get_ifd(0x8769)[0xA002] = 61
    rich = {"exif": exif, "icc_profile": PROFILE} if kind != "TIFF" else {}
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, kind, **{**rich, **options})
    return stream.getvalue()


def vips(array: Any, operation: str, interpretation: str, **options: Any) -> bytes:
    image = pyvips.Image.new_from_array(array, interpretation=interpretation).copy()
    image.set_type(pyvips.GValue.blob_type, "xmp-data", XMP)
    saved: bytes = getattr(image, operation)(**options)
    return saved


DEEP = RGB.astype(np.uint16) * 257
FLOAT = RGB.astype(np.float32) / 255

WHOLE: dict[str, Callable[[], bytes]] = {
    "png": lambda: pillow(RGB, "PNG"),
    "png, palette with alpha": lambda: pillow(
        Image.fromarray(RGB).quantize(16), "PNG", transparency=3
    ),
    "png, 16 bits, interlaced": lambda: vips(DEEP, "pngsave_buffer", "rgb16", interlace=True),
    "jpeg": lambda: pillow(RGB, "JPEG", xmp=XMP),
    "jpeg, progressive": lambda: pillow(RGB, "JPEG", progressive=True),
    "jpeg, CMYK": lambda: pillow(Image.fromarray(RGB).convert("CMYK"), "JPEG", icc_profile=None),
    "webp, lossless": lambda: pillow(RGB, "WEBP", lossless=True, xmp=XMP),
    "webp, alpha": lambda: pillow(RGBA, "WEBP"),
    "tiff": lambda: pillow(RGB, "TIFF"),
    "tiff, deflate, 16 bits": lambda: vips(
        DEEP, "tiffsave_buffer", "rgb16", compression="deflate", predictor="horizontal"
    ),
    "tiff, tiles": lambda: vips(
        RGBA, "tiffsave_buffer", "srgb", tile=True, tile_width=16, tile_height=16, compression="lzw"
    ),
    "tiff, float": lambda: vips(FLOAT, "tiffsave_buffer", "scrgb"),
    "bigtiff, jpeg": lambda: vips(RGB, "tiffsave_buffer", "srgb", bigtiff=True, compression="jpeg"),
    "avif": lambda: vips(RGB, "heifsave_buffer", "srgb", compression="av1", effort=0),
    "avif, 12 bits": lambda: vips(
        DEEP, "heifsave_buffer", "rgb16", compression="av1", effort=0, bitdepth=12
    ),
}
if not can_write_avif():
    WHOLE = {name: make for name, make in WHOLE.items() if not name.startswith("avif")}

Random = np.random.Generator
_made: dict[str, bytes] = {}


def whole(name: str) -> bytes:
    if name not in _made:
        _made[name] = WHOLE[name]()
    return _made[name]


def flip(raw: bytes, random: Random, count: int, start: int = 0, end: int | None = None) -> bytes:
    changed = bytearray(raw)
    for at in random.integers(start, min(end or len(raw), len(raw)), count):
        changed[at] ^= int(random.integers(1, 256))
    return bytes(changed)


def overwrite(raw: bytes, random: Random, filling: bytes) -> bytes:
    at = int(random.integers(12, len(raw)))
    return (raw[:at] + filling + raw[at + len(filling) :])[: len(raw)]


def another(random: Random) -> bytes:
    return whole(str(random.choice([*WHOLE])))


def cut(raw: bytes, random: Random) -> int:
    return int(random.integers(1, len(raw)))


DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "one byte flipped": lambda raw, random: flip(raw, random, 1),
    "twenty bytes flipped": lambda raw, random: flip(raw, random, 20),
    "a byte of the header flipped": lambda raw, random: flip(raw, random, 1, 4, 60),
    "bytes of the first half kilobyte flipped": lambda raw, random: flip(raw, random, 8, 4, 512),
    "a bit flipped": lambda raw, random: overwrite(
        raw, random, bytes([raw[cut(raw, random)] ^ (1 << int(random.integers(8)))])
    ),
    "truncated": lambda raw, random: raw[: cut(raw, random)],
    "the last bytes missing": lambda raw, random: raw[: -int(random.integers(1, 16))],
    "zeros in the middle": lambda raw, random: overwrite(raw, random, bytes(64)),
    "ones in the middle": lambda raw, random: overwrite(raw, random, b"\xff" * 64),
    "random bytes in the middle": lambda raw, random: overwrite(raw, random, random.bytes(100)),
    "random bytes behind the signature": lambda raw, random: raw[:12] + random.bytes(2000),
    "bytes put in": lambda raw, random: (
        raw[: (at := cut(raw, random))] + random.bytes(int(random.integers(1, 40))) + raw[at:]
    ),
    "bytes taken out": lambda raw, random: (
        raw[: (at := cut(raw, random))] + raw[at + int(random.integers(1, 40)) :]
    ),
    "spliced with another": lambda raw, random: (
        raw[: cut(raw, random)]
        + (other := whole(str(random.choice([*WHOLE]))))[cut(other, random) :]
    ),
    "the start of one, the rest of another": lambda raw, random: raw[:40] + another(random)[40:],
    "appended to itself": lambda raw, random: raw[: cut(raw, random)] + raw,
    "random bytes alone": lambda raw, random: random.bytes(int(random.integers(1, 3000))),
}


def check(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    start = time.perf_counter()
    try:
        with open_picture(path) as picture:
            height, width, channels = picture.shape
            for top in range(0, height, 16):
                rows = picture.rows(top, min(top + 16, height))
                assert rows.shape[1:] == (width, channels)
                assert rows.dtype == picture.dtype
    except PictureError as error:
        message = str(error)
    else:
        message = str(path)
    assert "\n" not in message
    assert str(path) in message
    assert time.perf_counter() - start < LONGEST


def test_enough_is_tried() -> None:
    assert len(DAMAGES) * len(WHOLE) * TRIES >= 300


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_or_read(
    tmp_path: Path, name: str, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = whole(name)
    for number in range(TRIES):
        seed = zlib.crc32(f"{SEED} {name} {damage} {number}".encode())
        check(tmp_path / f"a{number}", DAMAGES[damage](raw, np.random.default_rng(seed)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_damaged_here_is_read_when_whole(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_bytes(whole(name))
    with open_picture(tmp_path / "a") as picture:
        assert sorted(picture.shape[:2]) == [47, 61]


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_bomb(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = zlib.compress(bytes((3 * width + 1) * height) if width < 100 else b"nothing")
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + chunk(b"IDAT", pixels)
        + chunk(b"IEND", b"")
    )


def png_with_a_name_that_is_no_text() -> bytes:
    """libpng names the profile when it warns of it; pyvips would print a traceback."""
    profile = PROFILE[:128] + b"\xff" * 40 + PROFILE[168:]
    return png_bomb(10, 10, chunk(b"iCCP", b"Profil\xfb\0\0" + zlib.compress(profile)))


def avif_too_wide() -> bytes:
    """GObject would print that its width is out of range."""
    raw = bytearray(whole("avif"))
    at = raw.index(b"ispe")
    raw[at + 8 : at + 16] = struct.pack(">II", 268435517, 47)
    return bytes(raw)


needs_avif = pytest.mark.skipif(not can_write_avif(), reason="no encoder for AV1")


@pytest.mark.parametrize(
    "make", [pytest.param(avif_too_wide, marks=needs_avif), png_with_a_name_that_is_no_text]
)
def test_libvips_and_its_libraries_print_nothing(
    tmp_path: Path, make: Callable[[], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    check(tmp_path / "a", make())
    assert capfd.readouterr() == ("", "")


def jpeg_bomb() -> bytes:
    raw = bytearray(pillow(RGB, "JPEG"))
    at = raw.rindex(b"\xff\xc0")
    raw[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    return bytes(raw)


def tiff_bomb() -> bytes:
    tags = {256: 60000, 257: 60000, 258: 8, 259: 8, 262: 1, 273: 200, 277: 1, 278: 60000, 279: 20}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(300)


def webp_bomb() -> bytes:
    raw = bytearray(pillow(RGB, "WEBP", lossless=True, exif=b"", icc_profile=None))
    at = raw.index(b"VP8L") + 9
    flags = struct.unpack_from("<I", raw, at)[0] & 0xF0000000
    struct.pack_into("<I", raw, at, flags | 16382 | 16382 << 14)
    return bytes(raw)


def avif_bomb() -> bytes:
    raw = bytearray(whole("avif"))
    at = raw.index(b"ispe")
    raw[at + 8 : at + 16] = struct.pack(">II", 60000, 60000)
    return bytes(raw)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: png_bomb(60000, 60000), "60000 x 60000"),
        (jpeg_bomb, "60000 x 60000"),
        (tiff_bomb, "60000 x 60000"),
        (webp_bomb, "16383 x 16383"),
        pytest.param(avif_bomb, "60000 x 60000", marks=needs_avif),
    ],
    ids=["png", "jpeg", "tiff", "webp", "avif"],
)
def test_a_header_that_promises_too_much_is_refused_at_once(
    make: Callable[[], bytes], size: str
) -> None:
    start = time.perf_counter()
    with pytest.raises(PictureError, match=f"{size} pixels; at most 200,000,000 are accepted"):
        open_picture(make(), max_pixels=200_000_000)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt", b"XMP"])
def test_metadata_that_unpack_to_half_a_gigabyte_are_not_unpacked(kind: bytes) -> None:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**24)) for _ in range(32)) + packer.flush()
    heads = {
        b"iCCP": b"x\0\0",
        b"zTXt": b"x\0\0",
        b"iTXt": b"x\0\1\0\0\0",
        b"XMP": b"XML:com.adobe.xmp\0\1\0\0\0",
    }
    raw = png_bomb(10, 10, chunk(kind.replace(b"XMP", b"iTXt"), heads[kind] + packed))
    start = time.perf_counter()
    with open_picture(raw) as picture:
        assert picture.shape == (10, 10, 3)
        kept = picture.metadata
    assert kept.icc is kept.xmp is None
    assert sum(map(len, kept.text)) < 2**20
    assert time.perf_counter() - start < 2
