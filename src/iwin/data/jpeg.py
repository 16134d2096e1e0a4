"""What a JPEG says of itself before its pixels, and decoding only its upper rows.

ITU-T T.81 (JPEG), Annex B; Exif 2.32, section 4.5 (the orientation).
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
import simplejpeg

SOI, EOI, SOS = b"\xff\xd8", b"\xff\xd9", 0xDA
# Start of frame, of the kinds that libjpeg decodes: baseline, extended sequential, progressive.
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2
# TEM and RST0 to RST7 stand alone; every other marker before the scan has a length.
ALONE = (0x01, *range(0xD0, 0xD8))
APP1, APP14 = 0xE1, 0xEE
EXIF, XMP_ORIENTATION, ORIENTATION = b"Exif\0\0", b"tiff:Orientation", 0x0112
# The colour of a row may be interpolated with that of the next rows, half as many of which are coded.
ROWS_BELOW = 4
MOST_KEPT = 2**24  # bytes: 2,300 x 2,300 pixels


class JpegHeader(NamedTuple):
    """What is needed of a plain JPEG's header. size: (width, height) in pixels.

    height_at: where the height stands in the file, two bytes. one_scan: sequential, with all its components in
    one scan, so that the rows come in order. scan_at: where the first scan begins.
    """

    size: tuple[int, int]
    height_at: int
    one_scan: bool
    scan_at: int


def plain_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG that every decoder reads alike, or None.

    Plain is: 8 bits, grey or YCbCr, upright by Exif and XMP, with an end. Whatever else, as CMYK, RGB, rotated,
    cut short, or no JPEG at all, is for a decoder that knows these.
    """
    if data[:2] != SOI:
        return None
    at, end = 2, len(data) - 4
    frame: tuple[int, int] | None = None  # the marker of the frame, and where its segment begins
    while at < end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in ALONE:
            at += 2
            continue
        length = data[at + 2] << 8 | data[at + 3]
        body = at + 4
        if marker == SOS:
            return _header(data, frame, at)
        if marker in SEQUENTIAL or marker == PROGRESSIVE:
            if frame is not None:
                return None
            frame = marker, body
        elif (
            (
                0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)  # frames of other kinds
            )
            or (marker == APP1 and not _upright(data[body : at + 2 + length]))
        ):
            return None
        elif marker == APP14 and data[body : body + 5] == b"Adobe" and data[body + 11 : body + 12] != b"\x01":
            return None  # the colours are not YCbCr
        at += 2 + length
    return None


def _header(data: bytes, frame: tuple[int, int] | None, scan: int) -> JpegHeader | None:
    if frame is None or data.rfind(EOI, scan) < 0:
        return None
    marker, at = frame
    precision, components = data[at], data[at + 5]
    height, width = data[at + 1] << 8 | data[at + 2], data[at + 3] << 8 | data[at + 4]
    # Without a JFIF or Adobe segment these names of the components mean that the colours are not transformed.
    if precision != 8 or components not in (1, 3) or not height or not width or _named_rgb(data, at):
        return None
    one_scan = marker in SEQUENTIAL and data[scan + 4] == components
    return JpegHeader((width, height), at + 1, one_scan, scan)


def _named_rgb(data: bytes, frame: int) -> bool:
    return bytes(data[frame + 6 : frame + 15 : 3]) == b"RGB"


def _upright(segment: bytes) -> bool:
    """Whether an APP1 segment leaves the image as it is: no orientation in its Exif or XMP, or the upright one."""
    if segment[:6] != EXIF:
        return XMP_ORIENTATION not in segment
    tiff = segment[6:]
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(bytes(tiff[:4]))
    if order is None:
        return False

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]  # "little" or "big"

    directory = number(4, 4)
    for entry in range(number(directory, 2)):
        at = directory + 2 + 12 * entry
        if number(at, 2) == ORIENTATION:
            return number(at + 8, 2) == 1
    return True


def upper_rows(data: bytes, header: JpegHeader, rows: int) -> np.ndarray:
    """At least the first `rows` rows of a plain JPEG, (H, W, 3) uint8 RGB, the same as of the whole.

    Where the rows come in order, the decoder is told a smaller height and stops there, so what lies below costs
    nothing. The array is valid until the next call in the same thread: half a megabyte that is allocated and
    given back for every image costs a tenth of its decoding. Raises ValueError where the decoder gives up.
    """
    width, height = header.size
    if header.one_scan and rows + ROWS_BELOW < height:
        height = rows + ROWS_BELOW
        at = header.height_at
        data = b"".join((data[:at], height.to_bytes(2, "big"), data[at + 2 :]))
    # Not strict, so that a warning, as of bytes left over, is no error: as in Pillow.
    return simplejpeg.decode_jpeg(data, "RGB", strict=False, buffer=_buffers.of(3 * width * height))


class _Buffers(threading.local):
    """A buffer for each thread, as large as was asked for so far; very large ones are not kept."""

    kept = np.empty(0, np.uint8)

    def of(self, size: int) -> np.ndarray:
        if size > MOST_KEPT:
            return np.empty(size, np.uint8)
        if len(self.kept) < size:
            self.kept = np.empty(size, np.uint8)
        return self.kept


_buffers = _Buffers()
