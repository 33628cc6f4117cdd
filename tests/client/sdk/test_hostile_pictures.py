"""Pictures that cost more than they show: told from their headers, or unpacked within bounds."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moiety_client import pictures
from moiety_client.errors import InvalidInput
from moiety_shared.crypto.prg import Stream
from moiety_shared.messages.catalogue import Preprocessing

CUT = Preprocessing(channels=3, size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, resize=256)
WHOLE = Preprocessing(channels=1, size=(28, 28), mean=(0.5,), std=(0.5,))
MEASURED = """
import resource, sys
from pathlib import Path
from moiety_client import pictures
from moiety_client.errors import InvalidInput
from moiety_shared.messages.catalogue import Preprocessing
raw, how = Path(sys.argv[1]).read_bytes(), Preprocessing.model_validate_json(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    pictures.read(raw, how)
    said = "made"
except InvalidInput as error:
    said = str(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, said)
"""


def packed(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    picture.save(into := io.BytesIO(), form, **options)
    return into.getvalue()


def measured(folder: Path, raw: bytes, how: Preprocessing) -> tuple[int, str]:
    """Megabytes that reading it took, in a process of its own, and what came of it."""
    (folder / "picture").write_bytes(raw)
    command = [sys.executable, "-c", MEASURED, str(folder / "picture"), how.model_dump_json()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    megabytes, _, said = done.stdout.strip().partition(" ")
    return int(megabytes), said


@pytest.mark.parametrize("how", [CUT, WHOLE], ids=["cut", "whole"])
@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (490_000, 100), (1, 49_000_000)], ids=str)
def test_a_thin_picture_is_refused_before_it_is_unpacked(tmp_path: Path, size: tuple[int, int], how: object) -> None:
    assert isinstance(how, Preprocessing)
    raw = packed(Image.new("L" if size == (20_000, 1) else "1", size))
    assert len(raw) < 100_000
    megabytes, said = measured(tmp_path, raw, how)
    assert "more than 20 times as long" in said and megabytes < 30


@pytest.mark.parametrize("mode", ["RGBA", "P", "1"])
def test_what_a_large_picture_takes_is_bounded(tmp_path: Path, mode: str) -> None:
    """49 million pixels: four bytes for each as read, four as coloured, and a band of a few."""
    megabytes, said = measured(tmp_path, packed(Image.new(mode, (7000, 7000))), CUT)
    assert said == "made" and megabytes < 49 * 8 + 80


def test_what_is_made_is_bounded_too() -> None:
    huge = CUT.model_copy(update={"resize": 1 << 14})
    with pytest.raises(InvalidInput, match="more than 16,777,216 pixels"):
        pictures.fit(Image.new("L", (10, 10)), huge)
    wide = Preprocessing(channels=1, size=(1, 4096), mean=(0.5,), std=(0.5,))
    assert pictures.fit(Image.new("L", (4096, 1)), wide).shape == (1, 4096), "what the model takes is not too long"
    assert pictures.fit(Image.new("L", (20 * 28, 28)), WHOLE).shape == (28, 28)
    for size in ((20 * 28 + 1, 28), (28, 20 * 28 + 1), (1, 21)):
        with pytest.raises(InvalidInput, match="cut out the part that the model needs"):
            pictures.fit(Image.new("L", size), WHOLE)


def test_a_long_picture_is_measured_upright() -> None:
    wide = Preprocessing(channels=1, size=(2, 80), mean=(0.5,), std=(0.5,))
    turned = Image.Exif()
    turned[0x0112] = 6
    lying, standing = Image.new("L", (80, 2)), Image.new("L", (2, 80))
    assert pictures.read(packed(standing, exif=turned), wide).shape == (2, 80)
    with pytest.raises(InvalidInput, match="2 x 80"):
        pictures.read(packed(lying, exif=turned), wide)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("how", [CUT, WHOLE], ids=["colour", "grey"])
def test_bands_of_a_transparent_picture_are_those_of_the_whole(mode: str, how: object) -> None:
    assert isinstance(how, Preprocessing)
    y, x, c = np.ogrid[:600, :300, :4]
    picture = Image.fromarray(((x * 5 + y * 3 + c * 70) % 256).astype(np.uint8), "RGBA")
    picture = picture.quantize(64) if mode == "P" else picture.convert(mode)
    paper = Image.new("RGBA", picture.size, "white")
    whole = Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB" if how.channels == 3 else "L")
    assert picture.has_transparency_data
    assert np.array_equal(pictures.fit(picture, how), pictures.fit(whole, how))


def png(width: int, height: int) -> bytes:
    """Of which only the header is there."""
    raw = bytearray(packed(Image.new("L", (1, 1))))
    raw[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    return bytes(raw)


def tiles(width: int, height: int) -> bytes:
    """A TIFF of 16 x 16 pixels in one tile of that size, of which 256 bytes are there."""
    tags = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: width, 323: height, 324: 200, 325: 256}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries).ljust(200, b"\0") + bytes(256)


@pytest.mark.parametrize("size", [(10_000, 6_000), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)], ids=str)
def test_too_many_pixels_are_told_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="more than 50,000,000 pixels"):
        pictures.read(png(*size), WHOLE)


def test_tiles_of_a_tiff_are_no_larger_than_a_picture() -> None:
    with pytest.raises(InvalidInput, match="more than 50,000,000 pixels"):
        pictures.read(tiles(30_000, 30_000), WHOLE)
    assert pictures.read(tiles(16, 16), WHOLE).shape == (28, 28)


def coloured() -> Image.Image:
    y, x = np.ogrid[:40, :40]
    return Image.fromarray(((x * 7 + y * 5) % 256).astype(np.uint8))


@pytest.mark.parametrize("form", pictures.FORMATS)
def test_a_picture_that_is_cut_short_or_changed_is_refused_or_read(form: str) -> None:
    whole = packed(coloured(), form)
    assert pictures.read(whole, WHOLE).shape == (28, 28)
    stream = Stream(bytes(32), form)
    broken = [whole[:at] for at in range(0, len(whole), max(len(whole) // 40, 1))]
    for places, values in zip(
        stream.words("at", (150, 3), np.uint64), stream.words("to", (150, 3), np.uint8), strict=True
    ):
        changed = bytearray(whole)
        for at, value in zip(places.tolist(), values.tolist(), strict=True):
            changed[at % min(len(whole), 200)] = value
        broken.append(bytes(changed))
    for raw in broken:
        try:
            assert pictures.read(raw, WHOLE).shape == (28, 28)
        except InvalidInput as error:
            assert "picture" in str(error)


@pytest.mark.parametrize("form", ["PPM", "ICO", "TGA", "PCX", "JPEG2000", "EPS", "PDF"])
def test_other_formats_are_not_read(form: str) -> None:
    with pytest.raises(InvalidInput, match="PNG, JPEG, WEBP, GIF, BMP, TIFF"):
        pictures.read(packed(coloured().convert("RGB"), form), WHOLE)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (28, 28), colour) for colour in ("black", "white", "white")]
    raw = packed(frames[0], form, save_all=True, append_images=frames[1:])
    assert pictures.read(raw, WHOLE).max() < 10


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InvalidInput, match="cannot be opened"):
        pictures.read(tmp_path / "pipe.png", WHOLE)


def test_a_broken_picture_that_somebody_opened_is_refused() -> None:
    with Image.open(io.BytesIO(packed(coloured())[:60])) as opened, pytest.raises(InvalidInput, match="damaged"):
        pictures.fit(opened, WHOLE)
