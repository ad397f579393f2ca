from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppsr.models.errors import PictureError, PpsrError, UsageError
from ppsr.runtime.pictures import encode, formats, savers
from ppsr.runtime.pictures.decode import open_picture
from ppsr.runtime.pictures.encode import (
    Depth,
    Encoding,
    PictureWriter,
    check_picture_target,
    choose_encoding,
)
from ppsr.runtime.pictures.formats import FORMATS
from ppsr.runtime.pictures.metadata import Metadata
from ppsr.runtime.pixels import ArrayPixels

WRITTEN = [key for key, entry in FORMATS.items() if entry.dtypes]


def plain(format: str) -> Encoding:
    return Encoding(format, np.dtype(np.uint8))


def write(target: Any, array: Any, encoding: Encoding, metadata: Metadata | None = None) -> None:
    with PictureWriter(target, array.shape, encoding, metadata) as writer:
        for top in range(0, len(array), 7):
            writer.write(array[top : top + 7])


def fail(target: Any, rows: Any, encoding: Encoding) -> None:
    with PictureWriter(target, (61, 83, 3), encoding, Metadata()) as writer:
        writer.write(rows)
        raise KeyError


def suffix(format: str) -> str:
    return FORMATS[format].suffixes[0]


class TestChoice:
    @pytest.mark.parametrize(
        ("format", "own", "depth", "expected"),
        [
            ("png", "uint8", None, "uint8"),
            ("png", "uint16", None, "uint16"),
            ("png", "float32", None, "uint16"),
            ("png", "float32", "8", "uint8"),
            ("png", "uint8", "16", "uint16"),
            ("jpeg", "uint16", None, "uint8"),
            ("webp", "float32", None, "uint8"),
            ("tiff", "float32", None, "float32"),
            ("tiff", "uint8", "float", "float32"),
            ("avif", "uint8", None, "uint8"),
            ("avif", "float32", None, "uint16"),
        ],
    )
    def test_the_depth_is_the_pictures_or_the_most_there_is(
        self, format: str, own: str, depth: Depth | None, expected: str
    ) -> None:
        picture = ArrayPixels(np.zeros((2, 3, 3), own))
        chosen = choose_encoding(format, picture, scale=2, depth=depth, quality=None)
        assert (chosen.format, chosen.dtype, chosen.quality) == (format, np.dtype(expected), None)
        assert bool(chosen.notes) == (np.dtype(own).itemsize > np.dtype(expected).itemsize)

    @pytest.mark.parametrize(
        ("format", "options", "message"),
        [
            ("jpeg", {"depth": "16"}, r"JPEG cannot hold 16 bits a channel; .* \.png or \.tif"),
            ("webp", {"depth": "16"}, r"WebP cannot hold 16 bits"),
            ("avif", {"depth": "16"}, r"AVIF cannot hold 16 bits"),
            ("png", {"depth": "float"}, r"PNG cannot hold 32-bit float a channel; .* write \.tif"),
            ("png", {"quality": 90}, r"PNG is always lossless .*; leave it out, or write \.jpg"),
            ("tiff", {"quality": 90}, "TIFF is always lossless"),
            ("jpeg", {"quality": 0}, "expected a quality from 1 to 100, got 0"),
            ("webp", {"quality": 101}, "expected a quality from 1 to 100, got 101"),
            ("bmp", {}, "cannot write the format 'bmp'; expected one of png, jpeg"),
        ],
    )
    def test_what_a_format_has_not_is_refused(
        self, format: str, options: dict[str, Any], message: str
    ) -> None:
        picture = ArrayPixels(np.zeros((2, 3, 3), np.uint8))
        with pytest.raises(UsageError, match=message):
            choose_encoding(
                format, picture, **{"scale": 2, "depth": None, "quality": None} | options
            )

    @pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
    def test_a_format_that_is_too_small_is_named(self, tmp_path: Path, format: str) -> None:
        side = FORMATS[format].side // 2 + 1
        picture = SimpleNamespace(shape=(1, side, 3), dtype=np.dtype(np.uint8))
        name = FORMATS[format].name
        message = (
            rf"2 x {2 * side} pixels, but {name} holds at most .* a side; write \.png or \.tif"
        )
        with pytest.raises(UsageError, match=message):
            choose_encoding(format, picture, scale=2, depth=None, quality=None)
        target = tmp_path / "a"
        with pytest.raises(UsageError, match=f"cannot write .*a: {message}"):
            check_picture_target(target, plain(format), (2, 2 * side, 3))
        choose_encoding(format, picture, scale=1, depth=None, quality=None)

    @pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
    def test_the_limits_are_those_of_the_encoders(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
    ) -> None:
        limit = FORMATS[format].side
        tall = np.zeros((limit + 1, 1, 3), np.uint8)
        write(tmp_path / "a", tall[1:], plain(format))
        with open_picture(tmp_path / "a") as picture:
            assert picture.shape == (limit, 1, 3)
        monkeypatch.setattr(encode, "check_size", lambda *_: None)
        with pytest.raises(PictureError, match=f"{limit + 1} x 1 cannot be encoded") as caught:
            write(tmp_path / "b", tall, plain(format))
        assert "\n" not in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


class TestWriting:
    @pytest.mark.parametrize("format", WRITTEN)
    def test_an_exception_leaves_what_was_there(
        self, tmp_path: Path, photo: Callable, format: str
    ) -> None:
        target = tmp_path / f"a{suffix(format)}"
        target.write_bytes(b"old")
        with pytest.raises(KeyError):
            fail(target, photo()[:9], plain(format))
        assert target.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [target]

    def test_nothing_is_there_before_the_end(self, tmp_path: Path, photo: Callable) -> None:
        with PictureWriter(tmp_path / "a.png", (61, 83, 3), plain("png"), None) as writer:
            writer.write(photo())
            assert all(path.name.startswith(".ppsr-") for path in tmp_path.iterdir())
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    def test_rows_of_another_kind_and_too_few_of_them_are_mistakes(
        self, tmp_path: Path, photo: Callable
    ) -> None:
        rgb = photo()
        wrong = (rgb[..., :1], rgb[:, 1:], rgb.astype(np.uint16), rgb[0], np.vstack([rgb, rgb]))
        for rows in wrong:
            with (
                pytest.raises(ValueError, match="expected uint8 rows of 83 x 3, 61 at most"),
                PictureWriter(tmp_path / "a.png", rgb.shape, plain("png"), None) as writer,
            ):
                writer.write(rows)
        with (
            pytest.raises(ValueError, match="60 of 61 rows were written"),
            PictureWriter(tmp_path / "a.png", rgb.shape, plain("png"), None) as writer,
        ):
            writer.write(rgb[1:])
        assert list(tmp_path.iterdir()) == []

    def test_views_are_written_as_they_look(self, tmp_path: Path, photo: Callable) -> None:
        mirrored = photo()[:, ::-1]
        write(tmp_path / "a.png", mirrored, plain("png"))
        with open_picture(tmp_path / "a.png") as picture:
            np.testing.assert_array_equal(picture.rows(0, 61), mirrored)

    @pytest.mark.parametrize("name", ["[0].png", "a b%s\n.tif", "ä✓.jpg", b"\xff\xfe.png"])
    def test_names_of_all_kinds(self, tmp_path: Path, photo: Callable, name: str | bytes) -> None:
        if isinstance(name, bytes):
            if sys.platform != "linux":
                pytest.skip("no such names here")
            name = name.decode(errors="surrogateescape")
        folder = tmp_path / f"x{name}"
        folder.mkdir()
        write(folder / name, photo(), plain(formats.format_of(Path(name))))
        assert [path.name for path in folder.iterdir()] == [name]

    def test_a_link_is_followed(self, tmp_path: Path, photo: Callable) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "a.png").symlink_to("there/b.png")
        write(tmp_path / "a.png", photo(), plain("png"))
        assert (tmp_path / "a.png").is_symlink()
        assert [path.name for path in (tmp_path / "there").iterdir()] == ["b.png"]

    def test_targets_that_cannot_be_are_refused_before_any_row(self, tmp_path: Path) -> None:
        for target in (tmp_path, tmp_path / "nowhere" / "a.png"):
            with (
                pytest.raises(UsageError, match="cannot write"),
                PictureWriter(target, (1, 1, 3), plain("png"), None),
            ):
                raise AssertionError("opened")

    @pytest.mark.parametrize("format", WRITTEN)
    def test_a_stream_gets_the_same_bytes(
        self, tmp_path: Path, photo: Callable, format: str
    ) -> None:
        stream = io.BytesIO()
        write(stream, photo(), plain(format))
        write(tmp_path / "a", photo(), plain(format))
        assert stream.getvalue() == (tmp_path / "a").read_bytes()

    def test_a_stream_gets_nothing_where_rows_are_missing(self, photo: Callable) -> None:
        stream = io.BytesIO()
        with pytest.raises(KeyError):
            fail(stream, photo()[:5], plain("png"))
        assert stream.getvalue() == b""

    def test_metadata_in_a_bigtiff(
        self, tmp_path: Path, photo: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(savers, "BIG_TIFF", 0)
        exif = Image.Exif()
        exif[0x010F], exif.get_ifd(0x8769)[0xA434] = "a camera", "a lens"
        metadata = Metadata(exif=exif.tobytes().removeprefix(b"Exif\0\0"), iptc=b"\x1c\x02\x69\0\0")
        write(tmp_path / "a.tif", photo(), plain("tiff"), metadata)
        assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
        with Image.open(tmp_path / "a.tif") as opened:
            np.testing.assert_array_equal(np.asarray(opened), photo())
            assert opened.getexif()[0x010F] == "a camera"
            assert opened.getexif().get_ifd(0x8769)[0xA434] == "a lens"
        with open_picture(tmp_path / "a.tif") as picture:
            assert picture.metadata.iptc == metadata.iptc

    def test_an_exif_block_too_long_for_a_jpeg_is_left_out(
        self, tmp_path: Path, photo: Callable
    ) -> None:
        exif = Image.Exif()
        exif[0x010E] = "a" * 70_000
        metadata = Metadata(exif=exif.tobytes().removeprefix(b"Exif\0\0"))
        picture = SimpleNamespace(shape=(61, 83, 3), dtype=np.dtype(np.uint8), metadata=metadata)
        chosen = choose_encoding("jpeg", picture, scale=1, depth=None, quality=None)
        assert chosen.notes == ("EXIF left out: JPEG holds at most 64 KiB",)
        write(tmp_path / "a.jpg", photo(), chosen, metadata)
        with Image.open(tmp_path / "a.jpg") as opened:
            assert "exif" not in opened.info
        write(tmp_path / "a.png", photo(), plain("png"), metadata)
        with Image.open(tmp_path / "a.png") as opened:
            assert opened.getexif()[0x010E] == "a" * 70_000


WRITES = textwrap.dedent(
    """
    import os, resource, sys
    from pathlib import Path
    import numpy as np
    from ppsr.models.errors import PpsrError
    from ppsr.runtime.pictures.encode import Encoding, PictureWriter
    from ppsr.runtime.pictures.metadata import Metadata

    def write(target, format, shape, dtype="uint8", bands=64):
        band = np.random.default_rng(0).integers(0, 255, (bands, *shape[1:]), np.uint8)
        band = np.sort(band, 1).astype(dtype)
        encoding = Encoding(format, np.dtype(dtype))
        with PictureWriter(target, shape, encoding, Metadata()) as writer:
            for top in range(0, shape[0], bands):
                writer.write(band[: min(bands, shape[0] - top)])

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    """
)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITES + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
class TestMachine:
    @pytest.mark.parametrize(
        ("format", "limit"), [*((format, 20_000) for format in WRITTEN), ("tiff", 160_000)]
    )
    def test_a_full_disc_leaves_nothing(self, tmp_path: Path, format: str, limit: int) -> None:
        """The limit falls on the rows, 150 KB, or on the end of the encoded file."""
        code = """
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
        import ppsr.runtime.pictures.savers as savers
        savers.BIG_TIFF = 0
        rows = np.random.default_rng(0).integers(0, 255, (100, 500, 3), np.uint8)
        try:
            with PictureWriter(Path(sys.argv[1]), rows.shape, Encoding(sys.argv[3], rows.dtype),
                               Metadata(iptc=bytes(40000))) as writer:
                writer.write(rows)
        except PpsrError as error:
            print(type(error).__name__, error)
        """
        target = tmp_path / f"a{suffix(format)}"
        target.write_bytes(b"old")
        done = python(code, str(target), str(limit), format)
        assert done.stderr == ""
        assert done.stdout == f"PpsrError cannot write {target}: File too large\n"
        assert target.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [target]

    @pytest.mark.parametrize("format", WRITTEN)
    def test_a_disc_that_is_full_only_for_the_encoded_file(
        self, tmp_path: Path, photo: Callable, monkeypatch: pytest.MonkeyPatch, format: str
    ) -> None:
        """As the rows are written, there is room; libvips meets /dev/full."""
        target = tmp_path / f"a{suffix(format)}"
        save = savers.SAVERS[format]

        def into_full(image: Any, _: Any, *rest: Any) -> None:
            with open("/dev/full", "r+b", buffering=0) as full:
                save(image, full, *rest)

        monkeypatch.setitem(savers.SAVERS, format, into_full)  # type: ignore[arg-type]
        with pytest.raises(PpsrError, match=r"cannot write .*: No space left on device") as caught:
            write(target, photo("coffee", 300, 300), plain(format))
        assert not isinstance(caught.value, UsageError)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_a_disc_that_is_full_when_a_large_picture_is_decoded(
        self, tmp_path: Path, photo: Callable
    ) -> None:
        Image.fromarray(photo("coffee", 300, 300)).save(tmp_path / "a.png")
        code = """
        from ppsr.runtime.pictures import decode
        decode.DISC_THRESHOLD = 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
        try:
            decode.open_picture(Path(sys.argv[1]))
        except PpsrError as error:
            print(type(error).__name__, error)
        """
        done = python(code, str(tmp_path / "a.png"))
        assert done.stderr == ""
        assert done.stdout == f"PpsrError cannot decode {tmp_path / 'a.png'}: File too large\n"

    def test_a_stream_that_is_full(self, photo: Callable) -> None:
        with (
            open("/dev/full", "wb") as full,
            pytest.raises(PpsrError, match="cannot write standard output: No space left"),
        ):
            write(full, photo("coffee", 300, 300), plain("png"))

    @pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
    def test_memory_does_not_grow_with_the_picture(self, tmp_path: Path, format: str) -> None:
        """290 MB of pixels."""
        code = """
        write(Path(sys.argv[1]), sys.argv[2], (600, 8000, 3))
        before = peak()
        write(Path(sys.argv[1]), sys.argv[2], (12000, 8000, 3))
        print(peak() - before)
        """
        done = python(code, str(tmp_path / "a"), format)
        assert done.stderr == ""
        assert int(done.stdout) < 40e6

    def test_memory_does_not_grow_with_what_is_read(self, tmp_path: Path) -> None:
        """290 MB of pixels, upright and on the side."""
        code = """
        from ppsr.runtime.pictures.decode import open_picture
        path = Path(sys.argv[1])

        def read(height):
            exif = b"II*\\0\\x08\\0\\0\\0\\1\\0\\x12\\1\\3\\0\\1\\0\\0\\0\\6\\0\\0\\0" + bytes(4)
            write(path, "jpeg", (height, 8000, 3))
            raw = path.read_bytes()
            at = 4 + int.from_bytes(raw[4:6], "big")
            block = b"Exif\\0\\0" + exif
            head = b"\\xff\\xe1" + (len(block) + 2).to_bytes(2, "big") + block
            path.write_bytes(raw[:at] + head + raw[at:])
            del raw
            with open_picture(path) as picture:
                assert picture.shape == (8000, height, 3)
                for top in range(0, 8000, 400):
                    picture.rows(top, min(top + 8, 8000))

        read(600)
        before = peak()
        read(12000)
        print(peak() - before)
        """
        done = python(code, str(tmp_path / "a.jpg"))
        assert done.stderr == ""
        assert int(done.stdout) < 60e6
