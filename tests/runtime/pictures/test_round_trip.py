"""Pictures through ``open_picture`` and ``PictureWriter``, made larger by repeating pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from ppsr.runtime.pictures import exif as exif_block
from ppsr.runtime.pictures.decode import open_picture
from ppsr.runtime.pictures.encode import Depth, PictureWriter, choose_encoding
from ppsr.runtime.pictures.formats import FORMATS, can_write_avif, format_of

SCALE = 2
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="&#228;"/></rdf:RDF>'
    b'</x:xmpmeta><?xpacket end="w"?>'
)
IIM = b"\x1c\x02\x69\x00\x05title\x1c\x02\x50\x00\x06author"
MAKER = b"MAKERNOTE\0\1\2\3\xff" * 9

SUFFIXES = [".png", ".jpg", ".webp", ".tif", *([".avif"] if can_write_avif() else [])]
LOSSLESS = [suffix for suffix in SUFFIXES if suffix != ".jpg"]


def repeated(rows: Any) -> Any:
    return rows.repeat(SCALE, 0).repeat(SCALE, 1)


def enlarge(
    source: Path | bytes, target: Path, *, depth: Depth | None = None, quality: int | None = None
) -> tuple[str, ...]:
    """Make a picture larger in bands of 16 rows. -> the notes."""
    with open_picture(source) as picture:
        height, width, channels = picture.shape
        encoding = choose_encoding(
            format_of(target), picture, scale=SCALE, depth=depth, quality=quality
        )
        shape = (SCALE * height, SCALE * width, channels)
        with PictureWriter(target, shape, encoding, picture.metadata) as writer:
            for top in range(0, height, 16):
                rows = picture.rows(top, min(top + 16, height))
                writer.write(in_depth(repeated(rows), encoding.dtype))
    return (*picture.notes, *encoding.notes)


def in_depth(rows: Any, dtype: np.dtype[Any]) -> Any:
    if rows.dtype == dtype:
        return rows
    most = {"u": lambda kind: np.iinfo(kind).max, "f": lambda kind: 1.0}
    values = rows.astype(np.float64) / most[rows.dtype.kind](rows.dtype)
    values = np.clip(values, 0, 1) * most[dtype.kind](dtype)
    return (np.rint(values) if dtype.kind == "u" else values).astype(dtype)


def read(path: Path) -> Any:
    with open_picture(path) as picture:
        return picture.rows(0, picture.shape[0])


def saved(array: Any, saver: str, interpretation: str, **options: Any) -> bytes:
    image = pyvips.Image.new_from_array(array, interpretation=interpretation)
    data: bytes = getattr(image, saver)(**options)
    return data


def pillow(array: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def source(photo: Any, dtype: str, channels: int) -> tuple[Any, bytes]:
    """A real photo of that kind, and a file of it."""
    rgba = np.dstack([photo, photo[::-1, :, 1]])
    own = {1: [1], 2: [1, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[channels]
    array = np.ascontiguousarray(rgba[..., own])
    if dtype == "uint16":
        array = array.astype(np.uint16) * 251 + array[:, ::-1]
    if dtype == "float32":
        array = array.astype(np.float32) / 255 * 1.5 - 0.2
    names = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16"), "float32": ("b-w", "scrgb")}
    return array, saved(array, "tiffsave_buffer", names[dtype][channels > 2])


class TestPixels:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize(
        ("suffix", "dtype"),
        [
            (suffix, dtype)
            for suffix in LOSSLESS
            for dtype in ("uint8", "uint16", "float32")
            if np.dtype(dtype) in FORMATS[format_of(Path(f"a{suffix}"))].dtypes
        ],
    )
    def test_every_lossless_format_is_exact(
        self, tmp_path: Path, photo: Callable, suffix: str, dtype: str, channels: int
    ) -> None:
        """AVIF holds 12 bits of 16; grey is three equal channels where a format has no grey."""
        array, raw = source(photo("coffee", 61, 83), dtype, channels)
        target = tmp_path / f"a{suffix}"
        notes = enlarge(raw, target)
        found, expected = read(target), repeated(array)
        if channels < 3 and suffix in (".webp", ".avif"):
            alpha = [expected[..., 1:]] if channels == 2 else []
            expected = np.dstack([*[expected[..., :1]] * 3, *alpha])
        if (suffix, dtype) == (".avif", "uint16"):
            assert notes == ("16 bits rounded to 12: AVIF holds no more",)
            levels = np.rint(expected * (4095 / 65535))
            assert np.abs(found - levels * (65535 / 4095)).max() <= 1
            return
        assert notes == ()
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("suffix", LOSSLESS)
    @pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 1), (16, 16), (17, 15)])
    def test_every_size(
        self, tmp_path: Path, photo: Callable, suffix: str, size: tuple[int, int]
    ) -> None:
        array, raw = source(photo("chelsea", *size), "uint8", 3)
        enlarge(raw, tmp_path / f"a{suffix}")
        np.testing.assert_array_equal(read(tmp_path / f"a{suffix}"), repeated(array))

    @pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
    @pytest.mark.parametrize("channels", [3, 4])
    def test_other_programs_read_the_same(
        self, tmp_path: Path, photo: Callable, suffix: str, channels: int
    ) -> None:
        array, raw = source(photo(), "uint8", channels)
        enlarge(raw, tmp_path / f"a{suffix}")
        with Image.open(tmp_path / f"a{suffix}") as opened:
            np.testing.assert_array_equal(np.asarray(opened), repeated(array))

    def test_colours_stay_where_alpha_is_nothing(self, tmp_path: Path, photo: Callable) -> None:
        array = np.dstack([photo(), np.zeros((61, 83), np.uint8)])
        for suffix in LOSSLESS:
            enlarge(saved(array, "pngsave_buffer", "srgb"), tmp_path / f"a{suffix}")
            np.testing.assert_array_equal(read(tmp_path / f"a{suffix}"), repeated(array))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_jpeg_is_close_and_keeps_all_chroma(
        self, tmp_path: Path, photo: Callable, channels: int
    ) -> None:
        array, raw = source(photo("coffee", 100, 99), "uint8", channels)
        assert enlarge(raw, tmp_path / "a.jpg") == ()
        found = read(tmp_path / "a.jpg")
        assert found.shape == (200, 198, channels)
        assert np.abs(found.astype(int) - repeated(array)).mean() < 2
        with Image.open(tmp_path / "a.jpg") as opened:
            assert [layer[1:3] for layer in opened.layer] == [(1, 1)] * channels

    @pytest.mark.parametrize("channels", [2, 4])
    def test_jpeg_lays_alpha_on_white(self, tmp_path: Path, photo: Callable, channels: int) -> None:
        array, raw = source(photo("coffee", 64, 64), "uint8", channels)
        notes = enlarge(raw, tmp_path / "a.jpg", quality=100)
        assert notes == ("alpha laid on white: JPEG has none",)
        alpha = array[..., -1:] / 255
        expected = repeated(array[..., :-1] * alpha + 255 * (1 - alpha))
        assert np.abs(read(tmp_path / "a.jpg") - expected).mean() < 2

    def test_quality_counts(self, tmp_path: Path, photo: Callable) -> None:
        raw = source(photo("coffee", 120, 120), "uint8", 3)[1]
        for suffix in (".jpg", ".webp", *([".avif"] if can_write_avif() else [])):
            sizes = []
            for quality in (20, 90):
                enlarge(raw, tmp_path / f"a{suffix}", quality=quality)
                sizes.append((tmp_path / f"a{suffix}").stat().st_size)
            assert sizes[0] < sizes[1] / 2


class TestDepth:
    def test_16_bits_become_8_where_that_is_asked_for_or_all_there_is(
        self, tmp_path: Path, photo: Callable
    ) -> None:
        array, raw = source(photo(), "uint16", 3)
        expected = repeated(np.rint(array / 257).astype(np.uint8))
        assert enlarge(raw, tmp_path / "a.png", depth="8") == ("16 bits rounded to 8: as asked",)
        assert enlarge(raw, tmp_path / "a.webp") == ("16 bits rounded to 8: WebP holds no more",)
        for name in ("a.png", "a.webp"):
            np.testing.assert_array_equal(read(tmp_path / name), expected)

    def test_8_bits_become_more(self, tmp_path: Path, photo: Callable) -> None:
        array, raw = source(photo(), "uint8", 3)
        assert enlarge(raw, tmp_path / "a.png", depth="16") == ()
        np.testing.assert_array_equal(
            read(tmp_path / "a.png"), repeated(array).astype(np.uint16) * 257
        )
        assert enlarge(raw, tmp_path / "a.tif", depth="float") == ()
        np.testing.assert_allclose(read(tmp_path / "a.tif"), repeated(array) / 255, atol=1e-6)

    def test_float_becomes_16_bits_where_a_format_has_no_float(
        self, tmp_path: Path, photo: Callable
    ) -> None:
        raw = source(photo(), "float32", 1)[1]
        notes = enlarge(raw, tmp_path / "a.png")
        assert notes == ("32-bit float rounded to 16: PNG holds no more",)
        assert read(tmp_path / "a.png").dtype == np.uint16

    @pytest.mark.skipif(not can_write_avif(), reason="no encoder for AV1")
    @pytest.mark.parametrize("bits", [10, 12])
    def test_avif_of_more_than_8_bits_comes_back_as_it_was(
        self, tmp_path: Path, photo: Callable, bits: int
    ) -> None:
        deep = photo().astype(np.uint16) * 257
        options = {"compression": "av1", "lossless": True, "bitdepth": bits, "effort": 0}
        raw = saved(deep, "heifsave_buffer", "rgb16", **options)
        enlarge(raw, tmp_path / "a.avif")
        np.testing.assert_array_equal(
            read(tmp_path / "a.avif") >> 16 - bits, repeated(deep) >> 16 - bits
        )


def rich_exif() -> Image.Exif:
    exif = Image.Exif()
    rational = TiffImagePlugin.IFDRational
    exif[0x010E], exif[0x010F], exif[0x0110] = "a (small) cup", "Camera & Co", "X-1"
    exif[0x0112] = 1
    exif[0x011A] = exif[0x011B] = 300.0
    exif[0x0128] = 2
    exif[0x013B], exif[0x8298] = "Somebody", "(c) somebody, all rights"
    exif[0x9C9B] = "Titel ä".encode("utf-16le")
    inner = exif.get_ifd(0x8769)
    inner[0x9000], inner[0x829A], inner[0x829D] = b"0230", rational(1, 250), rational(28, 10)
    inner[0x9003], inner[0x8827] = "2020:01:02 03:04:05", 400
    inner[0xA002], inner[0xA003], inner[0xA434] = 83, 61, "24-70 f/2.8 (II)"
    inner[0x927C], inner[0x9286] = MAKER, b"UNICODE\0" + "ü".encode("utf-16le")
    gps = exif.get_ifd(0x8825)
    gps[0], gps[1], gps[2] = b"\2\3\0\0", "N", (48.0, 51.0, rational(12345, 1000))
    return exif


def fields(path: Path) -> dict[tuple[int, int], Any]:
    """All EXIF of a file but what says how the pixels lie, as Pillow reads it."""
    layout = {
        *(0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0111, 0x0112, 0x0115, 0x0116, 0x0117, 0x011A),
        *(0x011B, 0x011C, 0x0128, 0x013D, 0x0152, 0x0153, 0x02BC, 0x83BB, 0x8773, 0x8769, 0x8825),
    }
    with Image.open(path) as opened:
        exif = opened.getexif()
        found = {(0, tag): value for tag, value in exif.items() if tag not in layout}
        for directory in (0x8769, 0x8825):
            found |= {(directory, tag): v for tag, v in exif.get_ifd(directory).items()}
    return found


def rich(photo: Any, suffix: str) -> bytes:
    """A file with all that the format holds, not written by libvips."""
    exif = rich_exif()
    options: dict[str, Any] = {"exif": exif, "icc_profile": PROFILE}
    if suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Title", "Täst")
        text.add_itxt("Beschreibung", "日本", lang="ja", tkey="説明")
        text.add_text("Long", "a" * 3000, zip=True)
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options |= {"pnginfo": text, "dpi": (300, 300)}
    elif suffix == ".tif":
        options = {"icc_profile": PROFILE, "dpi": (300, 300)}
    else:
        options |= {"xmp": XMP, "dpi": (300, 300)}
    if suffix in (".webp", ".avif"):
        options |= {"lossless": True} if suffix == ".webp" else {"quality": 90}
    kind = {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper())
    return pillow(photo, kind, **options)


class TestMetadata:
    @pytest.mark.parametrize("first", [s for s in SUFFIXES if s != ".tif"])
    @pytest.mark.parametrize("second", SUFFIXES)
    def test_is_carried_from_every_format_into_every_other(
        self, tmp_path: Path, photo: Callable, first: str, second: str
    ) -> None:
        before, after = tmp_path / f"a{first}", tmp_path / f"b{second}"
        before.write_bytes(rich(photo(), first))
        notes = enlarge(before, after)
        lost = f"text left out: {FORMATS[format_of(after)].name} has no place for it"
        assert notes == ((lost,) if first == ".png" != second else ())
        expected = fields(before) | {(0x8769, 0xA002): 166, (0x8769, 0xA003): 122}
        assert fields(after) == expected
        assert expected[0x8769, 0x927C] == MAKER
        with open_picture(after) as picture:
            assert picture.metadata.icc == PROFILE
            assert picture.metadata.xmp == XMP
            assert picture.metadata.resolution == pytest.approx((300, 300), abs=0.01)
            assert picture.shape == (122, 166, 3)
        with Image.open(after) as opened:
            assert opened.info["icc_profile"] == PROFILE
            if second in (".jpg", ".png", ".tif"):
                assert opened.info["dpi"] == pytest.approx((300, 300), abs=0.01)
            if second == ".tif":
                assert opened.tag_v2[700] == XMP
            elif second != ".png":
                assert opened.info["xmp"] == XMP

    @pytest.mark.parametrize("second", SUFFIXES)
    def test_is_carried_out_of_a_tiff(self, tmp_path: Path, photo: Callable, second: str) -> None:
        """The TIFF is one that this package wrote, out of the JPEG: Pillow writes no such EXIF."""
        for name, suffix in (("a", ".jpg"), ("b", ".tif"), ("c", second)):
            if name == "a":
                (tmp_path / "a.jpg").write_bytes(rich(photo(), ".jpg"))
            else:
                before = tmp_path / ("a.jpg" if name == "b" else "b.tif")
                enlarge(before, tmp_path / f"{name}{suffix}")
        changed = {(0x8769, 0xA002): 332, (0x8769, 0xA003): 244}
        assert fields(tmp_path / f"c{second}") == fields(tmp_path / "a.jpg") | changed
        with open_picture(tmp_path / f"c{second}") as picture:
            assert (picture.metadata.icc, picture.metadata.xmp) == (PROFILE, XMP)
            assert picture.metadata.resolution == pytest.approx((300, 300), abs=0.01)

    def test_the_block_of_a_camera_stays_byte_for_byte(
        self, tmp_path: Path, photo: Callable
    ) -> None:
        """But for the size: offsets in makers' notes stay true."""
        block = rich_exif().tobytes().removeprefix(b"Exif\0\0")
        before = tmp_path / "a.jpg"
        before.write_bytes(rich(photo(), ".jpg"))
        for suffix in (".jpg", ".png", ".webp", *([".avif"] if can_write_avif() else [])):
            enlarge(before, tmp_path / f"b{suffix}")
            with open_picture(tmp_path / f"b{suffix}") as picture:
                assert picture.metadata.exif is not None
                assert picture.metadata.exif == exif_block.updated(block, 122, 166)
                changed = [a != b for a, b in zip(block, picture.metadata.exif, strict=True)]
            assert sum(changed) <= 6

    def test_text_of_a_png_stays_byte_for_byte(self, tmp_path: Path, photo: Callable) -> None:
        (tmp_path / "a.png").write_bytes(rich(photo(), ".png"))
        enlarge(tmp_path / "a.png", tmp_path / "b.png")
        found = []
        for name in ("a.png", "b.png"):
            with open_picture(tmp_path / name) as picture:
                found.append(picture.metadata.text)
            with Image.open(tmp_path / name) as opened:
                assert opened.text["Title"] == "Täst"
                assert opened.text["Beschreibung"].lang == "ja"
        assert found[0] == found[1]
        assert [text[:4] for text in found[0]] == [b"tEXt", b"iTXt", b"zTXt"]

    def test_iptc_stays_in_a_jpeg_and_fits_into_a_tiff(
        self, tmp_path: Path, photo: Callable
    ) -> None:
        resource = b"Photoshop 3.0\x008BIM\x04\x25\x03abc\0\0\0\x10" + bytes(range(16))
        block = resource + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IIM)) + IIM + b"\0"
        raw = rich(photo(), ".jpg")
        (tmp_path / "a.jpg").write_bytes(
            raw[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + raw[2:]
        )
        enlarge(tmp_path / "a.jpg", tmp_path / "b.jpg")
        enlarge(tmp_path / "b.jpg", tmp_path / "c.tif")
        enlarge(tmp_path / "c.tif", tmp_path / "d.tif")
        enlarge(tmp_path / "d.tif", tmp_path / "e.jpg")
        with open_picture(tmp_path / "b.jpg") as picture:
            assert picture.metadata.iptc == block
        for name in ("c.tif", "d.tif"):
            with Image.open(tmp_path / name) as opened:
                assert bytes(opened.tag_v2[33723]).rstrip(b"\0") == IIM
        with Image.open(tmp_path / "e.jpg") as opened:
            assert opened.info["photoshop"][0x0404] == IIM
        for suffix in (".png", ".webp"):
            notes = enlarge(tmp_path / "a.jpg", tmp_path / f"f{suffix}")
            assert any(note.startswith("IPTC left out: ") for note in notes)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_nothing_is_made_up(self, tmp_path: Path, photo: Callable, suffix: str) -> None:
        assert enlarge(pillow(photo(), "PNG"), tmp_path / f"a{suffix}") == ()
        with open_picture(tmp_path / f"a{suffix}") as picture:
            assert picture.metadata.parts() == []
        with Image.open(tmp_path / f"a{suffix}") as opened:
            assert not {"icc_profile", "xmp", "exif"} & opened.info.keys()
            if suffix in (".jpg", ".png", ".tif"):
                assert opened.info["dpi"] == pytest.approx((72, 72), abs=0.01)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_resolutions_that_differ_are_kept_and_turned(
        self, tmp_path: Path, photo: Callable, suffix: str
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        enlarge(pillow(photo(), "TIFF", dpi=(300, 150), exif=exif), tmp_path / f"a{suffix}")
        with open_picture(tmp_path / f"a{suffix}") as picture:
            assert picture.shape == (166, 122, 3)
            assert picture.metadata.resolution == pytest.approx((150, 300), abs=0.02)

    @pytest.mark.parametrize("first", [".jpg", ".png", ".webp"])
    @pytest.mark.parametrize("second", SUFFIXES)
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_orientation_is_applied_once_and_said_no_more(
        self, tmp_path: Path, photo: Callable, first: str, second: str, orientation: int
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        xmp = XMP.replace(b"dc:format", b'tiff:Orientation="%d" dc:format' % orientation)
        options: dict[str, Any] = {"exif": exif}
        if first == ".webp":
            options |= {"lossless": True, "xmp": xmp}
        kind = {".jpg": "JPEG"}.get(first, first[1:].upper())
        raw = pillow(photo("coffee", 9, 14), kind, **options)
        with open_picture(raw) as picture:
            expected = repeated(picture.rows(0, picture.shape[0]))
        enlarge(raw, tmp_path / f"a{second}")
        with open_picture(tmp_path / f"a{second}") as again:
            assert again.shape == expected.shape
            if second != ".jpg":
                np.testing.assert_array_equal(again.rows(0, len(expected)), expected)
        with Image.open(tmp_path / f"a{second}") as opened:
            assert opened.size == expected.shape[1::-1]
            assert opened.getexif().get(0x0112, 1) == 1

    def test_the_thumbnail_goes(self, tmp_path: Path, photo: Callable) -> None:
        thumbnail = io.BytesIO()
        Image.fromarray(photo()).resize((20, 15)).save(thumbnail, "JPEG")
        small = thumbnail.getvalue()
        exif = rich_exif()
        exif.get_ifd(1)  # Pillow writes the directory that is filled here.
        block = bytearray(exif.tobytes().removeprefix(b"Exif\0\0"))
        order = "<" if block[:2] == b"II" else ">"
        first = struct.unpack_from(order + "I", block, 4)[0]
        following = first + 2 + 12 * struct.unpack_from(order + "H", block, first)[0]
        struct.pack_into(order + "I", block, following, len(block))
        place = len(block) + 2 + 24 + 4
        block += struct.pack(order + "H", 2)
        block += struct.pack(order + "HHII", 0x0201, 4, 1, place)
        block += struct.pack(order + "HHII", 0x0202, 4, 1, len(small)) + bytes(4) + small
        raw = pillow(photo(), "JPEG", exif=b"Exif\0\0" + bytes(block))
        assert small in raw
        enlarge(raw, tmp_path / "a.jpg")
        assert small not in (tmp_path / "a.jpg").read_bytes()
        with Image.open(tmp_path / "a.jpg") as opened:
            assert opened.getexif()[0x010F] == "Camera & Co"
            assert not opened.getexif().get_ifd(1)

    def test_a_palette_and_its_depth_do_not_leak(self, tmp_path: Path, photo: Callable) -> None:
        stream = io.BytesIO()
        image = Image.fromarray(photo()).quantize(4)
        image.save(stream, "PNG", bits=2)
        enlarge(stream.getvalue(), tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as opened:
            assert opened.mode == "RGB"
            np.testing.assert_array_equal(
                np.asarray(opened), repeated(np.asarray(image.convert("RGB")))
            )

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_profile_of_other_colours_is_left_out_with_a_note(
        self, tmp_path: Path, photo: Callable, suffix: str
    ) -> None:
        """A grey profile where grey is written as RGB; an RGB profile on what stays grey."""
        name = FORMATS[format_of(Path(f"a{suffix}"))].name
        note = f"ICC profile left out: it is not of the colours of this {name}"
        own = PROFILE[:16] + b"GRAY" + PROFILE[20:]
        for profile, kept in (
            (own, suffix in (".png", ".jpg", ".tif")),
            (PROFILE, suffix in (".webp", ".avif")),
        ):
            raw = pillow(photo()[..., 0], "TIFF", icc_profile=profile)
            notes = enlarge(raw, tmp_path / f"a{suffix}")
            assert notes == (() if kept else (note,))
            with open_picture(tmp_path / f"a{suffix}") as picture:
                assert picture.metadata.icc == (profile if kept else None)

    def test_the_gamma_of_a_png_stays(self, tmp_path: Path, photo: Callable) -> None:
        linear = b"gAMA" + struct.pack(">I", 100000)
        raw = saved(photo(), "pngsave_buffer", "srgb")
        check = struct.pack(">I", zlib.crc32(linear))
        (tmp_path / "a.png").write_bytes(raw[:33] + b"\0\0\0\4" + linear + check + raw[33:])
        assert enlarge(tmp_path / "a.png", tmp_path / "b.png") == ()
        assert linear in (tmp_path / "b.png").read_bytes()
        notes = enlarge(tmp_path / "a.png", tmp_path / "b.tif")
        assert notes == ("gamma left out: TIFF has no place for it",)

    @pytest.mark.skipif(not can_write_avif(), reason="no encoder for AV1")
    def test_the_colours_of_an_avif_without_profile(self, tmp_path: Path, photo: Callable) -> None:
        raw = pillow(photo(), "AVIF")
        at = raw.index(b"colrnclx") + 8
        for primaries, transfer, space, notes in (
            (1, 13, None, ()),
            (12, 13, b"RGB ", ()),
            (9, 16, None, ("colour space CICP 9/16 taken for sRGB",)),
        ):
            numbers = struct.pack(">HH", primaries, transfer)
            with open_picture(raw[:at] + numbers + raw[at + 4 :]) as picture:
                assert picture.notes == notes
                assert (picture.metadata.icc or b"")[16:20] == (space or b"")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_damaged_profile_is_left_out_with_a_note(
        self, tmp_path: Path, photo: Callable, suffix: str
    ) -> None:
        for at in (36, 129):  # The signature, the number of tags.
            damaged = PROFILE[:at] + b"\xff\xfe\xfd" + PROFILE[at + 3 :]
            raw = pillow(photo(), "TIFF", icc_profile=damaged)
            notes = enlarge(raw, tmp_path / f"a{suffix}")
            assert notes == ("damaged ICC profile left out",)
            with Image.open(tmp_path / f"a{suffix}") as opened:
                assert "icc_profile" not in opened.info

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_directories_of_exif_that_lead_nowhere(
        self, tmp_path: Path, photo: Callable, suffix: str
    ) -> None:
        block = rich_exif().tobytes()
        for tag in (0x8769, 0x8825):
            for order in (">", "<"):
                at = block.find(struct.pack(order + "HHI", tag, 4, 1))
                if at > 0:
                    lost = block[: at + 8] + struct.pack(order + "I", 10**9) + block[at + 12 :]
                    raw = pillow(photo(), "PNG", exif=lost)
                    assert enlarge(raw, tmp_path / f"a{suffix}") == ("damaged EXIF left out",)

    def test_a_resolution_beyond_reason_is_none(self, tmp_path: Path, photo: Callable) -> None:
        raw = pillow(photo(), "TIFF", dpi=(4e9, 4e9))
        for suffix in SUFFIXES:
            enlarge(raw, tmp_path / f"a{suffix}")
            with open_picture(tmp_path / f"a{suffix}") as picture:
                assert picture.metadata.resolution is None

    def test_damaged_exif_is_left_out_with_a_note(self, tmp_path: Path, photo: Callable) -> None:
        raw = pillow(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\0")
        assert enlarge(raw, tmp_path / "a.png") == ("damaged EXIF left out",)
