from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from iwin.data.jpeg import plain_header, upper_rows

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@cache
def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(load_sample_images().images[0]).crop((100, 50, 100 + width, 50 + height))


def jpeg(size: tuple[int, int] = (203, 149), mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    photo(*size).convert(mode).save(file, "JPEG", **{"quality": 90} | options)
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = value
    return exif


PLAIN = {
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "4:2:0": jpeg(subsampling=2),
    "grey": jpeg(mode="L"),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_rows=1),
    "upright by Exif": jpeg(exif=orientation(1)),
    "a comment": jpeg(comment=b"\xff\xda and \xff\xd9"),
    "one block": jpeg((8, 8)),
    "something behind it": jpeg() + b"\0" * 100,
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 15, 16, 17, 31, 32, 61, 62, 63, 64, 65, 66, 100, 143, 144, 145, 149])
def test_the_upper_rows_are_those_of_the_whole(name: str, rows: int) -> None:
    data = PLAIN[name]
    header = plain_header(data)
    assert header is not None
    whole = by_pillow(data)
    assert header.size == (whole.shape[1], whole.shape[0])
    rows = min(rows, len(whole))
    made = upper_rows(data, header, rows)
    assert np.array_equal(made[:rows], whole[:rows])


def test_what_lies_below_is_not_decoded_where_the_rows_come_in_order() -> None:
    for name, data in PLAIN.items():
        header = plain_header(data)
        assert header is not None
        made = upper_rows(data, header, 20)
        assert len(made) == min(header.size[1], 149 if name == "progressive" else 24), name


OTHER = {
    "CMYK": jpeg(mode="CMYK"),
    "RGB kept as it is": jpeg(keep_rgb=True),
    "turned by Exif": jpeg(exif=orientation(6)),
    "turned by XMP": jpeg(xmp=XMP),
    "cut short": jpeg()[:-500],
    "cut in its header": jpeg()[:300],
    "only its begin": b"\xff\xd8",
    "nothing": b"",
    "no JPEG": b"\x89PNG" + b"\0" * 100,
    "no markers": b"\xff\xd8" + b"\0" * 100,
    "arithmetic coding": jpeg().replace(b"\xff\xc0\x00\x11", b"\xff\xc9\x00\x11"),
    "12 bits": jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    "no height": jpeg().replace(b"\xff\xc0\x00\x11\x08\x00\x95", b"\xff\xc0\x00\x11\x08\x00\x00"),
    "damaged Exif": jpeg(exif=orientation(1)).replace(b"Exif\0\0MM\0*", b"Exif\0\0XX\0*"),
}


@pytest.mark.parametrize("name", OTHER)
def test_whatever_is_not_plain_is_left_to_others(name: str) -> None:
    assert plain_header(OTHER[name]) is None


@pytest.mark.parametrize("cut", range(2, 700, 7))
def test_a_header_that_is_cut_anywhere_is_none(cut: int) -> None:
    assert plain_header(jpeg(exif=orientation(1))[:cut]) is None
