from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms, TiffImagePlugin

from ppsr.models.errors import PictureError, UsageError
from ppsr.runtime import image as module
from ppsr.runtime.image import Picture, check_picture_target, read_picture, write_picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(kind: str, picture: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(
        stream, kind, **options
    )
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF", ".Png"])
@pytest.mark.parametrize("size", [(61, 83), (1, 1), (1, 50), (33, 1)])
def test_lossless_formats_are_bit_exact(
    tmp_path: Path, photo: Callable, suffix: str, size: tuple[int, int]
) -> None:
    rgb = photo("chelsea", *size)
    write_picture(tmp_path / f"a{suffix}", Picture(rgb))
    back = read_picture(tmp_path / f"a{suffix}")
    assert back.rgb.dtype == np.uint8
    np.testing.assert_array_equal(back.rgb, rgb)
    assert back.profile is None


def test_jpeg_is_close_and_keeps_all_chroma(tmp_path: Path, photo: Callable) -> None:
    rgb = photo("coffee", 200, 199)
    write_picture(tmp_path / "a.jpg", Picture(rgb))
    back = read_picture(tmp_path / "a.jpg").rgb
    assert back.shape == rgb.shape
    assert np.abs(back.astype(int) - rgb).mean() < 2
    with Image.open(tmp_path / "a.jpg") as opened:
        assert [layer[1:3] for layer in opened.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_colour_profile_is_kept(tmp_path: Path, photo: Callable, suffix: str) -> None:
    write_picture(tmp_path / f"a{suffix}", Picture(photo(), PROFILE))
    assert read_picture(tmp_path / f"a{suffix}").profile == PROFILE
    with Image.open(tmp_path / f"a{suffix}") as opened:
        assert opened.info["icc_profile"] == PROFILE


def test_other_programs_read_the_same_pixels(tmp_path: Path, photo: Callable) -> None:
    for suffix in (".png", ".webp", ".tif"):
        write_picture(tmp_path / f"a{suffix}", Picture(photo()))
        with Image.open(tmp_path / f"a{suffix}") as opened:
            np.testing.assert_array_equal(np.asarray(opened), photo())


def test_a_view_is_written_as_it_looks(tmp_path: Path, photo: Callable) -> None:
    mirrored = photo()[:, ::-1]
    write_picture(tmp_path / "a.png", Picture(mirrored))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, mirrored)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(
    tmp_path: Path, photo: Callable, kind: str, orientation: int, turns: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    (tmp_path / "a").write_bytes(encoded(kind, photo(), exif=exif, **options))
    np.testing.assert_array_equal(read_picture(tmp_path / "a").rgb, np.rot90(photo(), turns))


def test_exif_orientation_of_a_jpeg_is_applied_once(tmp_path: Path, photo: Callable) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG", photo(), exif=exif))
    upright = read_picture(tmp_path / "a.jpg")
    assert upright.rgb.shape == (83, 61, 3)
    write_picture(tmp_path / "b.jpg", upright)
    assert read_picture(tmp_path / "b.jpg").rgb.shape == (83, 61, 3)


def test_metadata_other_than_the_profile_is_dropped(tmp_path: Path, photo: Callable) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[1] = "N"
    data = encoded("JPEG", photo(), exif=exif, icc_profile=PROFILE, comment=b"hello")
    (tmp_path / "a.jpg").write_bytes(data)
    assert b"a camera" in data
    for suffix in SUFFIXES:
        write_picture(tmp_path / f"b{suffix}", read_picture(tmp_path / "a.jpg"))
        assert b"a camera" not in (tmp_path / f"b{suffix}").read_bytes()
        with Image.open(tmp_path / f"b{suffix}") as opened:
            assert 0x8825 not in opened.getexif()
            assert opened.info["icc_profile"] == PROFILE


def test_the_content_tells_the_format(tmp_path: Path, photo: Callable) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("PNG", photo()))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.jpg").rgb, photo())


def vips(array: Any, saver: str, interpretation: str | None = None, **options: Any) -> bytes:
    image = pyvips.Image.new_from_array(array, interpretation=interpretation)
    return getattr(image, saver)(**options)


def big_endian(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"MM")
    colours = np.array(picture.getpalette() + [0] * (768 - len(picture.getpalette())))
    directory[256], directory[257] = picture.size
    directory[258], directory[259], directory[262], directory[277] = 8, 1, 3, 1
    directory[278], directory[279] = picture.height, picture.width * picture.height
    directory[320] = tuple((colours.reshape(256, 3).T.ravel() * 257).tolist())
    directory[273] = 0
    stream.write(b"MM\0*\0\0\0\x08")
    directory.save(stream)
    stream.write(picture.tobytes())
    return stream.getvalue()


def with_alpha(rgb: Any) -> Any:
    return np.dstack([rgb, np.full(rgb.shape[:2], 128, np.uint8)])


REFUSED: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "grey": (lambda rgb: encoded("PNG", rgb[..., 0]), "a PNG of 8-bit grey;"),
    "grey jpeg": (lambda rgb: encoded("JPEG", rgb[..., 0]), "a JPEG of 8-bit grey;"),
    "grey with alpha": (
        lambda rgb: encoded("PNG", Image.fromarray(rgb).convert("LA")),
        "a PNG of 8-bit grey with alpha;",
    ),
    "one bit": (lambda rgb: encoded("PNG", Image.fromarray(rgb).convert("1")), "a PNG of .*grey;"),
    "alpha": (lambda rgb: encoded("PNG", with_alpha(rgb)), "a PNG of 8-bit RGB with alpha;"),
    "alpha webp": (lambda rgb: encoded("WEBP", with_alpha(rgb)), "a WebP of 8-bit RGB with alpha"),
    "alpha tiff": (lambda rgb: encoded("TIFF", with_alpha(rgb)), "a TIFF of 8-bit RGB with alpha"),
    "palette with alpha": (
        lambda rgb: encoded("PNG", Image.fromarray(rgb).quantize(8), transparency=3),
        "a PNG with a palette;",
    ),
    "palette": (
        lambda rgb: encoded("PNG", Image.fromarray(rgb).quantize(64)),
        "a PNG with a palette;",
    ),
    "palette tiff": (
        lambda rgb: encoded("TIFF", Image.fromarray(rgb).quantize(64)),
        "a TIFF with a palette;",
    ),
    "palette tiff, big-endian": (
        lambda rgb: big_endian(Image.fromarray(rgb).quantize(64)),
        "a TIFF with a palette;",
    ),
    "palette bigtiff": (
        lambda rgb: encoded("TIFF", Image.fromarray(rgb).quantize(64), big_tiff=True),
        "a TIFF with a palette;",
    ),
    "colour key": (
        lambda rgb: encoded("PNG", rgb, transparency=(1, 2, 3)),
        "a PNG of 8-bit RGB with alpha",
    ),
    "16 bits": (
        lambda rgb: vips(rgb.astype(np.uint16) * 257, "pngsave_buffer", "rgb16"),
        "a PNG of 16-bit RGB;",
    ),
    "16 bits tiff": (
        lambda rgb: vips(rgb.astype(np.uint16) * 257, "tiffsave_buffer", "rgb16"),
        "a TIFF of 16-bit RGB;",
    ),
    "float": (
        lambda rgb: vips(rgb.astype(np.float32), "tiffsave_buffer", "scrgb"),
        "a TIFF of 32-bit float RGB;",
    ),
    "cmyk jpeg": (
        lambda rgb: encoded("JPEG", Image.fromarray(rgb).convert("CMYK")),
        "a JPEG of 8-bit CMYK;",
    ),
    "cmyk tiff": (
        lambda rgb: encoded("TIFF", Image.fromarray(rgb).convert("CMYK")),
        "a TIFF of 8-bit CMYK;",
    ),
    "pages": (
        lambda rgb: encoded("TIFF", rgb, save_all=True, append_images=[Image.fromarray(rgb)] * 2),
        "a TIFF of 3 pictures;",
    ),
    "animated webp": (
        lambda rgb: encoded("WEBP", rgb, save_all=True, append_images=[Image.fromarray(255 - rgb)]),
        "a WebP of 2 pictures;",
    ),
    "animated png": (
        lambda rgb: encoded("PNG", rgb, save_all=True, append_images=[Image.fromarray(255 - rgb)]),
        "an animated PNG;",
    ),
    "gif": (lambda rgb: encoded("GIF", rgb), "is GIF;"),
    "bmp": (lambda rgb: encoded("BMP", rgb), "is BMP;"),
    "avif": (lambda rgb: b"\0\0\0\x1cftypavif" + bytes(99), "is HEIF, AVIF or a film;"),
    "svg": (
        lambda rgb: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>",
        "is SVG;",
    ),
    "pdf": (lambda rgb: b"%PDF-1.7 and so on", "is PDF;"),
    "text": (lambda rgb: b"This is no picture.\n", "is no picture;"),
    "csv that libvips would read": (lambda rgb: b"1 2 3\n4 5 6\n", "is no picture;"),
    "empty": (lambda rgb: b"", "is empty;"),
    "signature alone": (lambda rgb: b"\x89PNG\r\n\x1a\n", "a PNG that is damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_something_is_refused(
    tmp_path: Path, photo: Callable, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, message = REFUSED[name]
    path = tmp_path / "a.png"
    path.write_bytes(make(photo()))
    with pytest.raises(PictureError, match=message) as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    if "damaged" not in message:
        assert "accepted are 8-bit RGB pictures without alpha" in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_grey_is_expanded_where_that_is_asked_for(
    tmp_path: Path, photo: Callable, kind: str
) -> None:
    grey = Image.fromarray(photo()).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 3
    path = tmp_path / "a"
    path.write_bytes(encoded(kind, grey, exif=exif))
    with Image.open(io.BytesIO(encoded(kind, grey))) as opened:
        expected = np.rot90(np.asarray(opened), 2)
    rgb = read_picture(path, expand_grey=True).rgb
    assert (rgb.dtype, rgb.flags.c_contiguous) == (np.uint8, True)
    np.testing.assert_array_equal(rgb, np.dstack([expected] * 3))
    with pytest.raises(PictureError, match=f"a {kind} of 8-bit grey;"):
        read_picture(path)


def test_colour_stays_where_grey_would_be_expanded(tmp_path: Path, photo: Callable) -> None:
    write_picture(tmp_path / "a.png", Picture(photo(), PROFILE))
    back = read_picture(tmp_path / "a.png", expand_grey=True)
    np.testing.assert_array_equal(back.rgb, photo())
    assert back.profile == PROFILE


@pytest.mark.parametrize("name", [*sorted(REFUSED.keys() - {"grey", "grey jpeg", "one bit"})])
def test_expanding_grey_accepts_nothing_else(tmp_path: Path, photo: Callable, name: str) -> None:
    make, message = REFUSED[name]
    (tmp_path / "a.png").write_bytes(make(photo()))
    with pytest.raises(PictureError, match=message):
        read_picture(tmp_path / "a.png", expand_grey=True)


def test_grey_of_other_depths_and_kinds_is_not_expanded(tmp_path: Path, photo: Callable) -> None:
    grey = Image.fromarray(photo()).convert("L")
    deep = vips(photo()[..., :1].astype(np.uint16) * 257, "pngsave_buffer", "grey16")
    for data, message in (
        (deep, "a PNG of 16-bit grey;"),
        (encoded("TIFF", grey, save_all=True, append_images=[grey]), "a TIFF of 2 pictures;"),
        (encoded("PNG", grey, save_all=True, append_images=[grey.rotate(180)]), "an animated PNG;"),
    ):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(PictureError, match=message):
            read_picture(tmp_path / "a", expand_grey=True)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.99])
def test_truncated_files_are_refused(
    tmp_path: Path, photo: Callable, suffix: str, part: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(photo("coffee", 300, 300)))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(PictureError, match="damaged, truncated") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_that_ends_in_the_middle_is_refused(
    tmp_path: Path, photo: Callable, progressive: bool
) -> None:
    data = encoded("JPEG", photo("coffee", 300, 300), progressive=progressive)
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with pytest.raises(PictureError, match="a JPEG that is damaged"):
        read_picture(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(data + b"what cameras append")
    assert read_picture(tmp_path / "a.jpg").rgb.shape == (300, 300, 3)


def test_a_damaged_png_is_refused(tmp_path: Path, photo: Callable) -> None:
    data = bytearray(encoded("PNG", photo()))
    data[len(data) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(PictureError, match="a PNG that is damaged"):
        read_picture(tmp_path / "a.png")


def test_what_is_no_file_is_refused(
    tmp_path: Path, photo: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PictureError, match="is a folder; give one picture"):
        read_picture(tmp_path)
    with pytest.raises(PictureError, match=r"a\.png does not exist"):
        read_picture(tmp_path / "a.png")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "b.png").write_bytes(encoded("PNG", photo()))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PictureError, match=r"cannot read .*b\.png: Permission denied"):
        read_picture(tmp_path / "b.png")


def test_huge_pictures_are_refused_from_the_header(
    tmp_path: Path, photo: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG", photo()))
    monkeypatch.setattr(module, "MAX_PIXELS", 61 * 83 - 1)
    with pytest.raises(PictureError, match="has 61 x 83 pixels; at most 5,062"):
        read_picture(tmp_path / "a.png")


def test_unknown_suffixes_are_listed(tmp_path: Path, photo: Callable) -> None:
    for name, found in (("a.bmp", r"got \.bmp"), ("a", "got no suffix")):
        with pytest.raises(UsageError, match=rf"ends in \.png, \.jpg, .*\.tiff, {found}"):
            write_picture(tmp_path / name, Picture(photo()))
    with pytest.raises(UsageError, match=r"the folder .* does not exist"):
        write_picture(tmp_path / "nowhere" / "a.png", Picture(photo()))
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_too_small_is_named(tmp_path: Path) -> None:
    wide = Picture(np.zeros((1, 16384, 3), np.uint8))
    (tmp_path / "a.webp").write_bytes(b"old")
    message = r"1 x 16384 pixels, but \.webp holds at most 16383 a side; write \.png or \.tif"
    with pytest.raises(UsageError, match=message):
        write_picture(tmp_path / "a.webp", wide)
    assert (tmp_path / "a.webp").read_bytes() == b"old"
    write_picture(tmp_path / "a.png", wide)


@pytest.mark.parametrize(("suffix", "limit"), module.LIMITS.items())
def test_the_limits_are_those_of_the_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, limit: int
) -> None:
    path = tmp_path / f"a{suffix}"
    tall = Picture(np.zeros((limit + 1, 1, 3), np.uint8))
    write_picture(path, Picture(tall.rgb[1:]))
    assert read_picture(path).rgb.shape == (limit, 1, 3)
    with pytest.raises(UsageError, match=f"holds at most {limit} a side"):
        check_picture_target(path.with_suffix(suffix.upper()), tall.rgb.shape[:2])
    monkeypatch.setattr(module, "LIMITS", {})
    with pytest.raises(PictureError, match=f"{limit + 1} x 1 cannot be encoded") as caught:
        write_picture(path, tall)
    assert "\n" not in str(caught.value)
