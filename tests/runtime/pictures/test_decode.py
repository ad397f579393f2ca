from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageOps, TiffImagePlugin

from ppsr.models.errors import PictureError
from ppsr.runtime.pictures import decode
from ppsr.runtime.pictures.decode import MAX_PIXELS, open_picture, read_rgb
from ppsr.runtime.pictures.formats import can_write_avif

needs_avif = pytest.mark.skipif(not can_write_avif(), reason="no encoder for AV1")


def encoded(kind: str, picture: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(
        stream, kind, **options
    )
    return stream.getvalue()


def vips(array: Any, saver: str, interpretation: str | None = None, **options: Any) -> bytes:
    image = pyvips.Image.new_from_array(array, interpretation=interpretation)
    saved: bytes = getattr(image, saver)(**options)
    return saved


def pixels(raw: bytes) -> Any:
    with open_picture(raw) as picture:
        rows = picture.rows(0, picture.shape[0])
        assert rows.shape == picture.shape
        assert (rows.dtype, rows.flags.c_contiguous) == (picture.dtype, True)
        return rows


def with_alpha(rgb: Any) -> Any:
    return np.dstack([rgb, rgb[::-1, :, 1]])


class TestKinds:
    """Every kind of pixels, against another decoder or the array it was made of."""

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
    def test_8_bits(self, photo: Callable, kind: str, mode: str) -> None:
        image = Image.fromarray(with_alpha(photo())).convert(mode)
        expected = np.asarray(image).reshape(61, 83, len(mode))
        np.testing.assert_array_equal(pixels(encoded(kind, image)), expected)

    @pytest.mark.parametrize("saver", ["pngsave_buffer", "tiffsave_buffer"])
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_16_bits(self, photo: Callable, saver: str, channels: int) -> None:
        rgba = with_alpha(photo()).astype(np.uint16)
        deep = (rgba * 251 + rgba[:, ::-1])[..., -channels:]
        raw = vips(np.ascontiguousarray(deep), saver, "grey16" if channels < 3 else "rgb16")
        np.testing.assert_array_equal(pixels(raw), deep)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_float(self, photo: Callable, channels: int) -> None:
        values = with_alpha(photo()).astype(np.float32)[..., -channels:] / 255 * 1.25 - 0.1
        raw = vips(
            np.ascontiguousarray(values), "tiffsave_buffer", "b-w" if channels < 3 else "scrgb"
        )
        np.testing.assert_array_equal(pixels(raw), values)

    def test_half_floats_are_exact(self, photo: Callable) -> None:
        values = (photo() / 255).astype(np.float16)
        raw = bytearray(vips(values.view(np.uint16), "tiffsave_buffer", "rgb16"))
        at = raw.index(struct.pack("<HHI", 339, 3, 3))
        struct.pack_into("<3H", raw, struct.unpack_from("<I", raw, at + 8)[0], 3, 3, 3)
        found = pixels(bytes(raw))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.astype(np.float32))

    @pytest.mark.parametrize("saver", ["pngsave_buffer", "tiffsave_buffer"])
    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_fewer_bits_use_the_whole_range(self, photo: Callable, saver: str, bits: int) -> None:
        levels = photo(width=84)[..., :1] >> 8 - bits  # libvips writes no odd width of 4 bits.
        grey = levels * (255 // (2**bits - 1))
        found = pixels(vips(grey, saver, "b-w", bitdepth=bits))
        np.testing.assert_array_equal(found, grey)

    def test_white_that_is_zero_is_white(self, photo: Callable) -> None:
        grey = np.ascontiguousarray(photo()[..., :1])
        np.testing.assert_array_equal(
            pixels(vips(grey, "tiffsave_buffer", "b-w", miniswhite=True)), grey
        )

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    @pytest.mark.parametrize("colours", [2, 16, 200])
    def test_palettes(self, photo: Callable, kind: str, colours: int) -> None:
        image = Image.fromarray(photo()).quantize(colours)
        np.testing.assert_array_equal(
            pixels(encoded(kind, image)), np.asarray(image.convert("RGB"))
        )

    def test_palettes_with_alpha(self, photo: Callable) -> None:
        raw = encoded("PNG", Image.fromarray(photo()).quantize(16), transparency=3)
        with Image.open(io.BytesIO(raw)) as opened:
            expected = np.asarray(opened.convert("RGBA"))
        assert len(np.unique(expected[..., 3])) == 2
        np.testing.assert_array_equal(pixels(raw), expected)

    def test_a_colour_that_is_transparent(self, photo: Callable) -> None:
        rgb = photo().copy()
        rgb[5, 7] = (1, 2, 3)
        found = pixels(encoded("PNG", rgb, transparency=(1, 2, 3)))
        np.testing.assert_array_equal(found[..., :3], rgb)
        assert found[5, 7, 3] == 0
        assert found[..., 3].sum() == 255 * (61 * 83 - 1)

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_jpeg(self, photo: Callable, mode: str, progressive: bool) -> None:
        raw = encoded("JPEG", Image.fromarray(photo()).convert(mode), progressive=progressive)
        with Image.open(io.BytesIO(raw)) as opened:
            expected = np.asarray(opened).reshape(61, 83, -1).astype(int)
        found = pixels(raw)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 2  # Two decoders.

    def test_webp(self, photo: Callable) -> None:
        for image in (photo(), with_alpha(photo())):
            found = pixels(encoded("WEBP", image, lossless=True, exact=True))
            np.testing.assert_array_equal(found, image)

    @needs_avif
    @pytest.mark.parametrize("bits", [8, 10, 12])
    def test_avif_uses_the_whole_range(self, photo: Callable, bits: int) -> None:
        """10 and 12 bits are 16 with their first bits repeated: white is 65535."""
        deep = photo().astype(np.uint16) * 257
        deep[:3, :3], deep[3:6, :3] = 65535, 0
        array, interpretation = (deep, "rgb16") if bits > 8 else (deep.astype(np.uint8), "srgb")
        raw = vips(
            array,
            "heifsave_buffer",
            interpretation,
            compression="av1",
            bitdepth=bits,
            lossless=True,
            effort=0,
        )
        found = pixels(raw)
        if bits == 8:
            np.testing.assert_array_equal(found, array)
            return
        levels = deep.astype(int) >> 16 - bits
        assert found.dtype == np.uint16
        assert (found.min(), found.max()) == (0, 65535)
        assert np.abs(found - levels * 65535 / (2**bits - 1)).max() <= 1
        np.testing.assert_array_equal(found >> 16 - bits, levels)

    @needs_avif
    def test_avif_of_another_encoder(self, photo: Callable) -> None:
        raw = encoded("AVIF", photo(), quality=100, subsampling="4:4:4")
        with Image.open(io.BytesIO(raw)) as opened:
            expected = np.asarray(opened).astype(int)
        assert np.abs(pixels(raw) - expected).max() <= 2

    def test_premultiplied_alpha_is_divided_out(self, photo: Callable) -> None:
        alpha = np.full((61, 83, 1), 128, np.uint8)
        alpha[:20] = 0
        rgba = np.dstack([photo(), alpha])
        premultiplied = rgba.copy()
        premultiplied[..., :3] = np.rint(rgba[..., :3] * (alpha / 255))
        raw = bytearray(vips(premultiplied, "tiffsave_buffer", "srgb"))
        at = raw.index(struct.pack("<HHI", 338, 3, 1))
        struct.pack_into("<H", raw, at + 8, 1)
        with open_picture(bytes(raw)) as picture:
            assert picture.notes == ("premultiplied alpha divided out",)
            found = picture.rows(0, 61).astype(int)
        assert np.abs(found[20:, :, :3] - rgba[20:, :, :3]).max() <= 1
        np.testing.assert_array_equal(found[..., 3:], alpha)


class TestCmyk:
    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_becomes_srgb_with_a_note(self, photo: Callable, kind: str) -> None:
        white = Image.new("CMYK", (83, 61))
        white.paste((0, 255, 255, 0), (40, 0, 83, 61))
        with open_picture(encoded(kind, white)) as picture:
            assert (picture.shape, picture.dtype) == ((61, 83, 3), np.uint8)
            assert picture.notes == ("CMYK converted to sRGB",)
            assert picture.metadata.icc is not None
            assert picture.metadata.icc[16:20] == b"RGB "
            found = picture.rows(0, 61)
        assert found[:, :30].min() > 250
        red = found[:, 50:].reshape(-1, 3).mean(0)
        assert red[0] > 200
        assert red[1:].max() < 70

    def test_16_bits_stay_16(self) -> None:
        deep = np.zeros((9, 11, 4), np.uint16)
        deep[..., 0] = np.arange(11) * 5000
        with open_picture(vips(deep, "tiffsave_buffer", "cmyk")) as picture:
            found = picture.rows(0, 9)
        assert (found.dtype, found.shape) == (np.uint16, (9, 11, 3))
        assert (found % 257 != 0).any()

    def test_the_profile_in_the_file_counts(self) -> None:
        """The built-in one, here as if it were the file's, gives the same; and it is not kept."""
        ink = np.full((9, 11, 4), 90, np.uint8)
        image = pyvips.Image.new_from_array(ink, interpretation="cmyk").copy()
        profile = bytes(pyvips.Operation.call("profile_load", "cmyk"))
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
        with open_picture(image.tiffsave_buffer()) as picture:
            assert picture.metadata.icc != profile
            np.testing.assert_array_equal(
                picture.rows(0, 9), pixels(vips(ink, "tiffsave_buffer", "cmyk"))
            )

    def test_alpha_stays(self) -> None:
        ink = np.dstack([np.full((9, 11, 4), 60, np.uint8), np.full((9, 11), 77, np.uint8)])
        found = pixels(vips(ink, "tiffsave_buffer", "cmyk"))
        assert found.shape == (9, 11, 4)
        assert (found[..., 3] == 77).all()


class TestOrientation:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("threshold", [0, 2**30], ids=["disc", "memory"])
    def test_is_applied_whatever_rows_are_asked_for(
        self,
        photo: Callable,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        orientation: int,
        threshold: int,
    ) -> None:
        monkeypatch.setattr(decode, "DISC_THRESHOLD", threshold)
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if kind == "WEBP" else {}
        raw = encoded(kind, photo(), exif=exif, **options)
        upright = pixels(encoded(kind, photo(), **options))
        expected = np.asarray(
            ImageOps.exif_transpose(Image.open(io.BytesIO(encoded("PNG", upright, exif=exif))))
        )
        with open_picture(raw) as picture:
            assert picture.shape == expected.shape
            height = expected.shape[0]
            for top, bottom in ((0, height), (0, 1), (7, 30), (height - 1, height)):
                np.testing.assert_array_equal(picture.rows(top, bottom), expected[top:bottom])

    def test_a_wide_picture_on_its_side(self) -> None:
        """Longer than the pieces in which such a picture is read."""
        rgb = np.random.default_rng(0).integers(0, 256, (2100, 3, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        found = pixels(encoded("PNG", rgb, exif=exif))
        np.testing.assert_array_equal(found, np.rot90(rgb, -1))


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


ONE = "one picture in a file|one in a file"

REFUSED: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "32-bit integers": (
        lambda rgb: vips(rgb.astype(np.uint32), "tiffsave_buffer", "rgb"),
        "is a TIFF of 32-bit RGB; convert it to grey, RGB or CMYK of 8 or 16 bits",
    ),
    "signed": (
        lambda rgb: vips(rgb.astype(np.int16), "tiffsave_buffer", "rgb"),
        "is a TIFF of 16-bit signed RGB; convert",
    ),
    "64-bit float": (
        lambda rgb: vips(rgb.astype(float), "tiffsave_buffer", "scrgb"),
        "is a TIFF of 64 bits a channel; convert it to 32-bit float",
    ),
    "Lab": (
        lambda rgb: vips(rgb.astype(np.float32), "tiffsave_buffer", "lab"),
        "is a TIFF of 32-bit float Lab; convert",
    ),
    "five channels": (
        lambda rgb: vips(np.dstack([rgb, rgb[..., :2]]), "tiffsave_buffer", "srgb"),
        "is a TIFF of 8-bit RGB with alpha in 5 channels; convert",
    ),
    "not a number": (
        lambda rgb: vips(np.full(rgb.shape, np.nan, np.float32), "tiffsave_buffer", "scrgb"),
        "holds values that are no numbers",
    ),
    "pages": (
        lambda rgb: encoded("TIFF", rgb, save_all=True, append_images=[Image.fromarray(rgb)] * 2),
        "is a TIFF of 3 pictures; .*one in a file",
    ),
    "animated webp": (
        lambda rgb: encoded("WEBP", rgb, save_all=True, append_images=[Image.fromarray(255 - rgb)]),
        "is a WebP of 2 pictures; .*one in a file",
    ),
    "animated png": (
        lambda rgb: encoded("PNG", rgb, save_all=True, append_images=[Image.fromarray(255 - rgb)]),
        "is an animated PNG; .*one picture in a file",
    ),
    "gif": (lambda rgb: encoded("GIF", rgb), "is GIF; accepted are PNG, JPEG,"),
    "bmp": (lambda rgb: encoded("BMP", rgb), "is BMP;"),
    "film": (lambda rgb: b"\0\0\0\x14ftypmp42" + bytes(99), "is a film or another file"),
    "svg": (
        lambda rgb: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>",
        "is SVG;",
    ),
    "pdf": (lambda rgb: b"%PDF-1.7 and so on", "is PDF;"),
    "text": (lambda rgb: b"This is no picture.\n", "is no picture; accepted are"),
    "csv that libvips would read": (lambda rgb: b"1 2 3\n4 5 6\n", "is no picture;"),
    "empty": (lambda rgb: b"", "is empty;"),
    "png, signature alone": (lambda rgb: b"\x89PNG\r\n\x1a\n", "is a PNG that is damaged"),
    "avif, signature alone": (
        lambda rgb: b"\0\0\0\x14ftypavif" + bytes(99),
        "is an AVIF that is damaged, truncated or of a kind not supported",
    ),
    "heic, signature alone": (
        lambda rgb: b"\0\0\0\x14ftypheic" + bytes(99),
        r"is a HEIC that is .*; not every libvips decodes HEVC: convert it",
    ),
    "only the name of a format": (lambda rgb: b"\xff\xd8\xff", "is a JPEG that is damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_picture_of_ours_is_refused(
    tmp_path: Path, photo: Callable, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, message = REFUSED[name]
    path = tmp_path / "a.png"
    path.write_bytes(make(photo()))
    for source, label in ((path, str(path)), (path.read_bytes(), "standard input")):
        with pytest.raises(PictureError, match=message) as caught:
            open_picture(source, name=None if source == path else "standard input")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{label} ")
    assert capfd.readouterr() == ("", "")


class TestFiles:
    def test_the_content_tells_the_format(self, tmp_path: Path, photo: Callable) -> None:
        (tmp_path / "a.jpg").write_bytes(encoded("PNG", photo()))
        with open_picture(tmp_path / "a.jpg") as picture:
            assert picture.kind == "png"
            np.testing.assert_array_equal(picture.rows(0, 61), photo())

    @pytest.mark.parametrize("name", ["[0].png", "a b%s\n.png", "ä✓.png", b"\xff\xfe.png"])
    def test_names_of_all_kinds(self, tmp_path: Path, photo: Callable, name: str | bytes) -> None:
        if isinstance(name, bytes):
            if sys.platform != "linux":
                pytest.skip("no such names here")
            name = name.decode(errors="surrogateescape")
        path = tmp_path / name
        path.write_bytes(encoded("PNG", photo()))
        np.testing.assert_array_equal(read_rgb(path), photo())

    def test_what_is_no_file_is_refused(
        self, tmp_path: Path, photo: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(PictureError, match="is a folder; give one picture"):
            open_picture(tmp_path)
        with pytest.raises(PictureError, match=r"a\.png does not exist"):
            open_picture(tmp_path / "a.png")
        with pytest.raises(PictureError, match="not a regular file"):
            open_picture(Path("/dev/null"))
        with pytest.raises(PictureError, match=r"cannot read|does not exist"):
            open_picture(tmp_path / "a\0.png")
        with pytest.raises(PictureError, match="File name too long"):
            open_picture(tmp_path / ("a" * 300))

        def refuse(*_: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        (tmp_path / "b.png").write_bytes(encoded("PNG", photo()))
        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(PictureError, match=r"cannot read .*b\.png: Permission denied"):
            open_picture(tmp_path / "b.png")

    def test_huge_pictures_are_refused_from_the_header(self, photo: Callable) -> None:
        raw = encoded("PNG", photo())
        with pytest.raises(PictureError, match=r"has 61 x 83 pixels; at most 5,062 .*--max-p"):
            open_picture(raw, max_pixels=61 * 83 - 1)
        open_picture(raw, max_pixels=61 * 83).close()
        assert MAX_PIXELS == 2**28

    @pytest.mark.parametrize("threshold", [0, 2**30], ids=["disc", "memory"])
    def test_rows_outside_and_after_the_end_are_refused(
        self, photo: Callable, monkeypatch: pytest.MonkeyPatch, threshold: int
    ) -> None:
        monkeypatch.setattr(decode, "DISC_THRESHOLD", threshold)
        picture = open_picture(encoded("PNG", photo()))
        for top, bottom in ((-1, 5), (0, 62), (5, 5), (61, 61)):
            with pytest.raises(ValueError, match="of 61"):
                picture.rows(top, bottom)
        picture.close()
        picture.close()
        with pytest.raises(ValueError, match="closed"):
            picture.rows(0, 1)

    @pytest.mark.skipif(sys.platform != "linux", reason="/proc")
    def test_the_temporary_file_goes_with_the_picture(
        self, photo: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def opened() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        monkeypatch.setattr(decode, "DISC_THRESHOLD", 0)
        open_picture(encoded("PNG", photo())).close()
        before = opened()
        with open_picture(encoded("PNG", photo())) as picture:
            picture.rows(0, 9)
            assert opened() > before
        assert opened() == before


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.99])
def test_truncated_files_are_refused_when_they_are_opened(
    photo: Callable, kind: str, part: float, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = encoded(kind, photo("coffee", 300, 300))
    with pytest.raises(PictureError, match="damaged, truncated") as caught:
        open_picture(raw[: int(len(raw) * part)])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_that_ends_in_the_middle_is_refused(photo: Callable, progressive: bool) -> None:
    raw = encoded("JPEG", photo("coffee", 300, 300), progressive=progressive)
    with pytest.raises(PictureError, match="a JPEG that is damaged"):
        open_picture(raw[: len(raw) // 2] + b"\xff\xd9")
    assert pixels(raw + b"what cameras append").shape == (300, 300, 3)


def big_endian(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"MM")
    palette = picture.getpalette() or []
    colours = np.array(palette + [0] * (768 - len(palette)))
    directory[256], directory[257] = picture.size
    directory[258], directory[259], directory[262], directory[277] = 8, 1, 3, 1
    directory[278], directory[279] = picture.height, picture.width * picture.height
    directory[320] = tuple((colours.reshape(256, 3).T.ravel() * 257).tolist())
    directory[273] = 0
    stream.write(b"MM\0*\0\0\0\x08")
    directory.save(stream)
    stream.write(picture.tobytes())
    return stream.getvalue()


NOT_PLAIN: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "grey with alpha": (
        lambda rgb: encoded("PNG", Image.fromarray(rgb).convert("LA")),
        "a PNG of 8-bit grey with alpha;",
    ),
    "alpha": (lambda rgb: encoded("PNG", with_alpha(rgb)), "a PNG of 8-bit RGB with alpha;"),
    "alpha webp": (lambda rgb: encoded("WEBP", with_alpha(rgb)), "a WebP of 8-bit RGB with alpha"),
    "palette": (
        lambda rgb: encoded("PNG", Image.fromarray(rgb).quantize(64)),
        "a PNG of 8-bit RGB by a palette;",
    ),
    "palette tiff, big-endian": (
        lambda rgb: big_endian(Image.fromarray(rgb).quantize(64)),
        "a TIFF of 8-bit RGB by a palette;",
    ),
    "palette bigtiff": (
        lambda rgb: encoded("TIFF", Image.fromarray(rgb).quantize(64), big_tiff=True),
        "a TIFF of 8-bit RGB by a palette;",
    ),
    "colour key": (
        lambda rgb: encoded("PNG", rgb, transparency=(1, 2, 3)),
        "a PNG of 8-bit RGB with alpha",
    ),
    "16 bits": (
        lambda rgb: vips(rgb.astype(np.uint16) * 257, "pngsave_buffer", "rgb16"),
        "a PNG of 16-bit RGB;",
    ),
    "16-bit grey": (
        lambda rgb: vips(rgb[..., :1].astype(np.uint16) * 257, "pngsave_buffer", "grey16"),
        "a PNG of 16-bit grey;",
    ),
    "float": (
        lambda rgb: vips(rgb.astype(np.float32), "tiffsave_buffer", "scrgb"),
        "a TIFF of 32-bit float RGB;",
    ),
    "cmyk": (
        lambda rgb: encoded("JPEG", Image.fromarray(rgb).convert("CMYK")),
        "a JPEG of 8-bit CMYK;",
    ),
}


class TestReadRgb:
    @pytest.mark.parametrize("name", NOT_PLAIN)
    @pytest.mark.parametrize("expand_grey", [False, True])
    def test_what_would_lose_something_is_refused(
        self, tmp_path: Path, photo: Callable, name: str, expand_grey: bool
    ) -> None:
        make, message = NOT_PLAIN[name]
        (tmp_path / "a").write_bytes(make(photo()))
        with pytest.raises(PictureError, match=f"{message}.*accepted are 8-bit RGB pictures"):
            read_rgb(tmp_path / "a", expand_grey=expand_grey)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
    def test_grey_is_expanded_where_that_is_asked_for(
        self, tmp_path: Path, photo: Callable, kind: str
    ) -> None:
        grey = Image.fromarray(photo()).convert("L")
        exif = Image.Exif()
        exif[0x0112] = 3
        path = tmp_path / "a"
        path.write_bytes(encoded(kind, grey, exif=exif))
        with Image.open(io.BytesIO(encoded(kind, grey))) as opened:
            expected = np.rot90(np.asarray(opened), 2)
        rgb = read_rgb(path, expand_grey=True)
        assert (rgb.dtype, rgb.flags.c_contiguous) == (np.uint8, True)
        np.testing.assert_array_equal(rgb, np.dstack([expected] * 3))
        with pytest.raises(PictureError, match=f"a {kind} of 8-bit grey;"):
            read_rgb(path)

    def test_colour_stays_where_grey_would_be_expanded(
        self, tmp_path: Path, photo: Callable
    ) -> None:
        (tmp_path / "a").write_bytes(encoded("PNG", photo()))
        np.testing.assert_array_equal(read_rgb(tmp_path / "a", expand_grey=True), photo())
