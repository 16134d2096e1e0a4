"""The index of a shard: where each sample lies in its tar, and its label and key, ready to be memory-mapped.

`train-00003.tar` has `train-00003.idx` beside it, little-endian:

    header   64 bytes   magic "iwin-idx", format version u4, samples N u4, tar size u8, tar sha256 32 bytes,
                        bytes of keys u8
    blocks   N u4       of each image's first byte in the tar, in blocks of 512 bytes: a member starts at one
    sizes    N u4       of each image in bytes
    labels   N i4
    ends     N u4       of each key in the bytes that follow
    keys     UTF-8, packed end to end

So a sample takes 16 bytes besides its key. The first three arrays, 12 bytes a sample, are memory-mapped, and so are
in memory once for all processes of a machine.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from iwin.data.strings import PackedStrings
from iwin.data.tarwalk import TarWalk
from iwin.data.whole_file import whole_file
from iwin.errors import DataError

MAGIC = b"iwin-idx"
VERSION = 2
HEADER = struct.Struct("<8sIIQ32sQ")
BLOCK = 512
MAPPED = {"blocks": "<u4", "sizes": "<u4", "labels": "<i4"}
MAPPED_BYTES = sum(np.dtype(kind).itemsize for kind in MAPPED.values())  # of a sample
ENDS = "<u4"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
LABEL_EXTENSION = "cls"
LABEL_DIGITS = 10


class IndexEntry(NamedTuple):
    """One sample of a shard: its key, where its image's bytes lie in the tar, and its label."""

    key: str
    offset: int
    size: int
    label: int


def index_path(tar: Path) -> Path:
    """Where the index of the shard `tar` lies: beside it, with the suffix .idx."""
    return tar.with_suffix(".idx")


class ShardIndex:
    """The opened index of one shard.

    blocks (N,) uint32, sizes (N,) uint32, labels (N,) int32: memory-mapped arrays.
    sha256: of the tar, in hex, as it was when it was indexed. tar_size: in bytes.
    fetched: whether the tar is there; false where it comes later, whole or not at all.

    Raises DataError where the index is missing, damaged, of another version, or older than its tar. Pickles as
    its path, so that a worker which does not inherit memory maps the file itself.
    """

    __slots__ = ("blocks", "fetched", "labels", "sha256", "sizes", "tar", "tar_size")

    def __init__(self, tar: Path, fetched: bool = True) -> None:
        self.tar = tar
        self.fetched = fetched
        path = index_path(tar)
        again = f"Make it again: iwin shards index {tar.parent}"
        if not path.is_file():
            raise DataError(f"{tar} has no index ({path.name}). Make it: iwin shards index {tar.parent}")
        with path.open("rb") as file:
            head, held = file.read(HEADER.size), os.fstat(file.fileno()).st_size
        if len(head) < HEADER.size or head[:8] != MAGIC:
            raise DataError(f"{path} is not an index of a shard. {again}")
        _, version, count, tar_size, digest, key_bytes = HEADER.unpack(head)
        if version != VERSION:
            raise DataError(f"{path} is of index version {version}; this code reads version {VERSION}. {again}")
        mapped = HEADER.size + count * MAPPED_BYTES
        expected = mapped + count * np.dtype(ENDS).itemsize + key_bytes
        if held != expected:
            raise DataError(f"{path} holds {held} bytes where {expected} belong: it is damaged. {again}")
        if fetched and not tar.is_file():
            raise DataError(f"{path} is the index of {tar.name}, which is not there. Fetch or write the shard again.")
        if fetched and tar.stat().st_size != tar_size:
            raise DataError(
                f"{tar} holds {tar.stat().st_size} bytes, and its index was made when it held {tar_size}: "
                f"the shard is incomplete or was changed. If it is right as it is, index it again: "
                f"iwin shards index {tar.parent}"
            )
        # Mapped by torch, which keeps no descriptor of the file, as Python does: a data set has thousands of shards,
        # and a process may often have 1,024 files open.
        raw = torch.from_file(str(path), shared=False, size=mapped, dtype=torch.uint8).numpy()
        arrays: dict[str, np.ndarray] = {}
        position = HEADER.size
        for name, kind in MAPPED.items():
            end = position + count * np.dtype(kind).itemsize
            arrays[name] = raw[position:end].view(kind)
            position = end
        self.blocks, self.sizes, self.labels = arrays["blocks"], arrays["sizes"], arrays["labels"]
        self.tar_size: int = tar_size
        self.sha256: str = digest.hex()
        if count and int((self.offsets + self.sizes).max()) > tar_size:
            raise DataError(f"{path} points past the end of {tar.name}: it is damaged. {again}")
        if count and int(self.labels.min()) < 0:
            raise DataError(f"{path} has label {int(self.labels.min())}, below 0: it is damaged. {again}")

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def offsets(self) -> np.ndarray:
        """(N,) uint64: of each image's first byte in the tar; made at each call."""
        return self.blocks.astype(np.uint64) * np.uint64(BLOCK)

    def offset(self, row: int) -> int:
        """Of the first byte of image `row` in the tar."""
        return int(self.blocks[row]) * BLOCK

    @property
    def keys(self) -> PackedStrings:
        """The N keys, read at each call: they are half of an index, and asked for only where something is wrong."""
        tail = np.fromfile(index_path(self.tar), np.uint8, offset=HEADER.size + len(self) * MAPPED_BYTES)
        ends = len(self) * np.dtype(ENDS).itemsize
        return PackedStrings(tail[:ends].view(ENDS), tail[ends:])

    def __reduce__(self) -> tuple[type[ShardIndex], tuple[Path, bool]]:
        return ShardIndex, (self.tar, self.fetched)


def write_index(tar: Path, num_classes: int | None = None) -> ShardIndex:
    """Walk the shard `tar` strictly, write its index beside it (whole or not at all) and open it.

    The tar follows the WebDataset convention: the files of a sample share the name up to the first dot (the
    key), and stand together; `.cls` is the label in decimal, and exactly one of .jpg .jpeg .png .webp the
    image. Other extensions are passed over. num_classes: where given, labels must lie below it.

    Raises:
        DataError: the tar is damaged, a key lacks its image or label or has two, a key comes twice, a label is
            no integer or out of range.
    """
    entries, digest, size = walk_samples(tar, num_classes)
    keys = PackedStrings.pack(entry.key for entry in entries)
    with whole_file(index_path(tar)) as file:
        file.write(HEADER.pack(MAGIC, VERSION, len(entries), size, digest, len(keys.blob)))
        columns = {
            "blocks": [entry.offset // BLOCK for entry in entries],
            "sizes": [entry.size for entry in entries],
            "labels": [entry.label for entry in entries],
        }
        for name, kind in MAPPED.items():
            file.write(np.array(columns[name], dtype=kind).tobytes())
        file.write(keys.ends.tobytes())
        file.write(keys.blob.tobytes())
    return ShardIndex(tar)


def walk_samples(tar: Path, num_classes: int | None = None) -> tuple[list[IndexEntry], bytes, int]:
    """The samples of the shard `tar` as a strict walk finds them, its SHA-256 and its size in bytes.

    Raises DataError as write_index does.
    """
    with TarWalk(tar) as walk:
        entries = list(_samples(walk, num_classes))
        digest, size = walk.sha256, walk.size
    if not entries:
        raise DataError(f"{tar} holds no samples. Remove it, or write it again.")
    return entries, digest, size


def _samples(walk: TarWalk, num_classes: int | None) -> Iterator[IndexEntry]:
    """Group the members of a shard into samples and check each."""
    seen: set[str] = set()
    key: str | None = None
    image: tuple[int, int] | None = None
    label: int | None = None

    def whole() -> IndexEntry:
        assert key is not None
        if image is None:
            raise DataError(f"{walk.path}: key {key!r} has no image (one of {', '.join(IMAGE_EXTENSIONS)}).")
        if label is None:
            raise DataError(f"{walk.path}: key {key!r} has no label (a .{LABEL_EXTENSION} file).")
        return IndexEntry(key, *image, label)

    for member in walk.members():
        folder, slash, base = member.name.rpartition("/")
        stem, dot, extension = base.partition(".")
        if not (stem and dot):
            raise DataError(f"{walk.path}: {member.name!r} at byte {member.offset} is no <key>.<extension>.")
        owner = folder + slash + stem
        if owner != key:
            if key is not None:
                yield whole()
            if owner in seen:
                raise DataError(f"{walk.path}: key {owner!r} comes again at byte {member.offset}, apart from the rest.")
            seen.add(owner)
            key, image, label = owner, None, None
        extension = extension.lower()
        if extension in IMAGE_EXTENSIONS:
            if image is not None:
                raise DataError(f"{walk.path}: key {key!r} has two images; the second is at byte {member.offset}.")
            if not member.body:
                raise DataError(f"{walk.path}: the image of key {key!r} at byte {member.offset} is empty.")
            image = (member.offset, len(member.body))
        elif extension == LABEL_EXTENSION:
            if label is not None:
                raise DataError(f"{walk.path}: key {key!r} has two labels; the second is at byte {member.offset}.")
            label = _label(member.body, f"{walk.path}: the label of key {key!r} at byte {member.offset}", num_classes)
    if key is not None:
        yield whole()


def _label(body: bytes, what: str, num_classes: int | None) -> int:
    text = body.strip()
    if not (text.isdigit() and len(text) <= LABEL_DIGITS):
        raise DataError(f"{what} is {body[:20]!r}: write a class number from 0, in decimal.")
    label = int(text)
    limit = 2**31 if num_classes is None else num_classes
    if label >= limit:
        raise DataError(f"{what} is {label}: it must lie below {limit}.")
    return label
