from __future__ import annotations

from pathlib import Path

import pytest

from ppsr.models.errors import UsageError
from ppsr.runtime.pictures import formats
from ppsr.runtime.pictures.formats import (
    FORMATS,
    can_write_avif,
    format_of,
    require_writable,
    sniff,
)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.png", "png"),
        ("a.PNG", "png"),
        ("a.b.jpg", "jpeg"),
        ("a.JPEG", "jpeg"),
        ("a.webp", "webp"),
        ("a.tif", "tiff"),
        ("a.TiFF", "tiff"),
        ("a.avif", "avif"),
    ],
)
def test_the_suffix_tells_the_format_to_write(name: str, key: str) -> None:
    assert format_of(Path(name)) == key


@pytest.mark.parametrize(
    ("name", "found"), [("a.bmp", r"got \.bmp"), ("a", "got no suffix"), (".png", "got no suffix")]
)
def test_other_suffixes_are_refused_with_a_list(name: str, found: str) -> None:
    with pytest.raises(UsageError, match=rf"ends in \.png, \.jpg, .*\.tiff, \.avif, {found}$"):
        format_of(Path(name))


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF"])
def test_heic_is_not_written(name: str) -> None:
    with pytest.raises(UsageError, match="HEIC can be read, not written"):
        format_of(Path(name))
    with pytest.raises(UsageError, match=r"cannot write the format 'heic'; expected one of png,"):
        require_writable("heic")


def test_avif_is_not_written_without_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "can_write_avif", lambda: False)
    with pytest.raises(UsageError, match=r"no AV1 encoder; write \.png"):
        require_writable("avif")
    assert require_writable("png") is FORMATS["png"]


def test_the_encoder_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyvips-binary brings one along."""
    assert can_write_avif()
    can_write_avif.cache_clear()

    def missing(*_: object, **__: object) -> None:
        raise formats.pyvips.Error("no property named compression", "none")

    monkeypatch.setattr(formats.pyvips.Image, "black", missing)
    assert not can_write_avif()
    can_write_avif.cache_clear()


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"RIFF\0\0\0\0WEBP", ("webp", "WebP")),
        (b"RIFF\0\0\0\0WAVE", (None, "no picture")),
        (b"MM\0+\0\x08", ("tiff", "TIFF")),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf", ("avif", "AVIF")),
        (b"\0\0\0\x1cftypmif1\0\0\0\0miafavif", ("avif", "AVIF")),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", ("heic", "HEIC")),
        (b"\0\0\0\x10ftypmp42\0\0\0\0avif", (None, "a film or another file of the MPEG family")),
        (b"\0\0\0\x0cJXL \r\n\x87\n", (None, "JPEG XL")),
        (b"8BPS", (None, "Photoshop's PSD")),
        (b"", (None, "no picture")),
    ],
)
def test_the_first_bytes_tell_the_format_to_read(
    head: bytes, found: tuple[str | None, str]
) -> None:
    assert sniff(head) == found
