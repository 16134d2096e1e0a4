"""A strict walk over a tar file: every header is checked, and nothing ever becomes a path on disk.

Python's tarfile takes a damaged header between two members for the end of the archive and stops without a
word; a shard then looks complete and is not. This walk raises instead. TarHeaders finds the members without
reading them, TarWalk reads all of a file once, in order.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from iwin.errors import DataError

BLOCK = 512
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Extent(NamedTuple):
    """Where one regular file of a tar lies. offset: of its first byte in the file that is walked; size: in bytes."""

    name: str
    offset: int
    size: int


class Member(NamedTuple):
    """One regular file of a tar. offset: of its first data byte in the tar; body: its bytes."""

    name: str
    offset: int
    body: bytes


class TarHeaders:
    """Iterate over where the regular files of a tar lie; their bytes are passed over, not read.

    within: the part of the file at `path` that is the tar, where it is itself a member of another tar; by default
        the whole file. All offsets are from the start of that file.

    Directories are passed over. GNU and PAX long names and sizes are understood. Raises DataError, with the
    path and the byte offset, for a damaged or truncated header, data that ends early, a missing end-of-archive
    block, bytes after the end, and members that are no files (links, devices, sparse files).
    """

    def __init__(self, path: Path, within: Extent | None = None) -> None:
        self.path = path
        self._name = str(path) if within is None else f"{path}: {within.name}"
        self._position = 0 if within is None else within.offset
        self._end = path.stat().st_size if within is None else within.offset + within.size
        self._file = path.open("rb")
        self._file.seek(self._position)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._file.close()

    def __iter__(self) -> Iterator[Extent]:
        long_name: str | None = None
        long_size: int | None = None
        while True:
            start = self._position
            block = self._read(BLOCK, "a header")
            if not block.strip(b"\0"):
                self._check_end()
                return
            info = self._header(block, start)
            if info.type in REGULAR:
                name = info.name if long_name is None else long_name
                size = info.size if long_size is None else long_size
                long_name = long_size = None
                self._check_room(size, name)
                after = self._position + _padded(size)
                yield Extent(name, self._position, size)
                if self._position < after:
                    self._position = self._file.seek(after)
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = self._body(info.size, "a long name").rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE):
                records = self._pax(self._body(info.size, "a PAX header"), start)
                if info.type == tarfile.XGLTYPE:
                    if records.keys() & {"path", "size"}:
                        raise self._error("a global PAX header sets the path or size of every member", start)
                    continue
                long_name = records.get("path", long_name)
                long_size = int(records["size"]) if "size" in records else long_size
                if any(key.startswith("GNU.sparse") for key in records):
                    raise self._error("a sparse file", start)
            elif info.type == tarfile.DIRTYPE:
                long_name = long_size = None
            else:
                raise self._error(f"{info.name!r} is a link, a device or a sparse file (type {info.type!r})", start)

    def _header(self, block: bytes, start: int) -> tarfile.TarInfo:
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self._error(f"a damaged header ({error})", start) from error

    def _pax(self, body: bytes, start: int) -> dict[str, str]:
        """The records of a PAX header: each is its own length in decimal, a space, key=value and a newline."""
        records: dict[str, str] = {}
        while body:
            digits, space, _ = body.partition(b" ")
            length = int(digits) if space and digits.isdigit() else 0
            record = body[len(digits) + 1 : length]
            if length > len(body) or not record.endswith(b"\n") or b"=" not in record:
                raise self._error("a damaged PAX header", start)
            key, _, value = record[:-1].partition(b"=")
            records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
            body = body[length:]
        if not records.get("size", "0").isdigit():
            raise self._error("a PAX header whose size is no number", start)
        return records

    def _body(self, size: int, what: str) -> bytes:
        self._check_room(size, what)
        return self._read(_padded(size), what)[:size]

    def _check_room(self, size: int, what: str) -> None:
        # Asked before anything is read: a damaged size must not become an allocation.
        if size < 0 or self._position + _padded(size) > self._end:
            raise self._error(f"the {size} bytes of {what!r} reach past the end of the archive (byte {self._end})")

    def _read(self, size: int, what: str) -> bytes:
        data = self._file.read(size) if self._position + size <= self._end else b""
        if len(data) != size:
            raise self._error(f"the archive ends where {what} should be: it was cut short")
        self._position += size
        return data

    def _check_end(self) -> None:
        """Only zeros may follow the end-of-archive block; two archives joined end to end would hide the second."""
        while left := min(self._end - self._position, 1 << 20):
            if self._read(left, "the rest of the end").strip(b"\0"):
                raise self._error("there are data after the end-of-archive block")

    def _error(self, what: str, offset: int | None = None) -> DataError:
        where = self._position if offset is None else offset
        return DataError(f"{self._name}: at byte {where}: {what}. Fetch or write this file again.")


class TarWalk(TarHeaders):
    """Iterate over the regular files of the tar at `path` with their bytes, and take the SHA-256 on the way.

    `sha256` and `size` (bytes) are of the whole file once the walk has ended. Raises what TarHeaders raises.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.size = self._end
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """SHA-256 of what was read so far: of the whole file once the walk has ended."""
        return self._hash.digest()

    def members(self) -> Iterator[Member]:
        """The regular files, each with its bytes, in their order."""
        for extent in self:
            yield Member(extent.name, extent.offset, self._body(extent.size, extent.name))

    def _read(self, size: int, what: str) -> bytes:
        data = super()._read(size, what)
        self._hash.update(data)
        return data


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
