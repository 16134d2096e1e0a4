"""Tensors out of torch's pickled files, without importing or running anything that they name.

A pickle is a program that names classes and functions and calls them. Here every name becomes an inert
placeholder, torch's own names too; what comes out is a tree of plain data and placeholders, and the
tensors are recognised in that tree afterwards, as data. So a checkpoint may hold optimizers, yacs
configurations or an attack beside its weights: its weights are read, the rest does nothing.

Both of torch's formats are read: the zip archive (torch 1.6 and later) and the stream of pickles before.
"""

from __future__ import annotations

import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from iwin.errors import WeightsError

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_REBUILD = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_GETATTR = ("builtins.getattr", "__builtin__.getattr")


class Foreign:
    """Stands for an object whose class or function a pickle names. It keeps what it was made from, and does nothing."""

    path: ClassVar[str] = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.path in _GETATTR:  # how a pickle names a nested class; what it gives must be a class as well
            return _foreign_class("?")
        made = super().__new__(cls)
        made.args, made.entries = args, {}
        return made

    args: tuple[Any, ...]
    entries: dict[Any, Any]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def __setstate__(self, state: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Foreign:
        return self

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...

    def add(self, item: Any) -> None: ...


def _foreign_class(path: str) -> type[Foreign]:
    return type("Foreign", (Foreign,), {"path": path})


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file: its key there, how many, of which type (None for one we do not know)."""

    key: str
    numel: int
    dtype: torch.dtype | None


@dataclass(frozen=True)
class PickledFile:
    """What a file holds: `tree` of plain data and Foreign, and the bytes of its storages."""

    tree: Any
    read: Callable[[Storage], bytearray]

    def is_tensor(self, node: Any) -> bool:
        """Whether a node of the tree stands for a tensor that can be read."""
        node = _parameter_data(node)
        return isinstance(node, Foreign) and node.path in _REBUILD

    def tensor(self, node: Any, name: str) -> Tensor:
        """The tensor that `node` stands for. WeightsError, naming it, where the file does not hold it all."""
        args = _parameter_data(node).args
        try:
            storage, offset, size, stride = args[:4]
            size, stride, (offset,) = _sizes(size), _sizes(stride), _sizes((offset,))
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            sound = isinstance(storage, Storage) and min((offset, *size, *stride)) >= 0
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{name} is no sound tensor in the file: {error}") from error
        count = math.prod(size)
        if not sound or (count and last >= storage.numel) or count > storage.numel:
            raise WeightsError(f"{name} of shape {size} reaches beyond the numbers that the file stores for it")
        if storage.dtype is None:
            raise WeightsError(f"{name} is of a type of numbers that is not supported")
        if count == 0:
            return torch.empty(size, dtype=storage.dtype)
        data = self.read(storage)
        if len(data) != storage.numel * storage.dtype.itemsize:
            raise WeightsError(f"{name}: the file stores {len(data)} bytes for {storage.numel} numbers")
        return torch.frombuffer(data, dtype=storage.dtype).as_strided(size, stride, offset).contiguous()


def as_mapping(node: Any) -> Mapping[Any, Any] | None:
    """A dict, or an OrderedDict's placeholder, as a mapping; None for anything else."""
    if isinstance(node, Mapping):
        return node
    if isinstance(node, Foreign) and node.path == "collections.OrderedDict":
        try:
            return {**dict(node.args[0] if node.args else ()), **node.entries}
        except (TypeError, ValueError) as error:
            raise WeightsError(f"its pickle is damaged: an OrderedDict of {type(node.args[0]).__name__}") from error
    return None


def _parameter_data(node: Any) -> Any:
    if isinstance(node, Foreign) and node.path == "torch._utils._rebuild_parameter" and node.args:
        return node.args[0]
    return node


def _sizes(node: Any) -> tuple[int, ...]:
    """A tuple of ints, or a torch.Size's placeholder."""
    values = node.args[0] if isinstance(node, Foreign) else node
    if not all(type(value) is int for value in values):
        raise ValueError(f"{values} are no sizes")
    return tuple(values)


class _Unpickler(pickle.Unpickler):
    """Makes placeholders of all that a pickle names, and Storages of what torch keeps outside of the pickle."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.classes: dict[str, type[Foreign]] = {}
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        return self.classes.setdefault(path, _foreign_class(path))

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or not pid or pid[0] != "storage":
            return Foreign()  # the source of a pickled module
        _, kind, key, _, numel, *view = pid
        if type(numel) is not int or numel < 0 or any(part is not None for part in view):
            raise pickle.UnpicklingError(f"a storage of {numel} numbers, view {view}")
        storage = Storage(str(key), numel, DTYPES.get(getattr(kind, "path", "").rpartition(".")[2]))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise pickle.UnpicklingError(f"storage {key} is described in two ways")
        return storage


def _unpickle(file: Any) -> tuple[Any, dict[str, Storage]]:
    unpickler = _Unpickler(file)
    try:
        return unpickler.load(), unpickler.storages
    except Exception as error:  # a damaged pickle can raise anything: it is a program that went wrong
        raise WeightsError(f"its pickle is damaged: {type(error).__name__}: {error}") from error


@contextmanager
def open_pickled(path: Path) -> Iterator[PickledFile]:
    """A file that torch.save wrote, open for reading its tensors.

    WeightsError, without the file's name, where it is damaged or something else.
    """
    with path.open("rb") as file:
        try:
            if file.read(len(ZIP_START)) == ZIP_START:
                with zipfile.ZipFile(file) as archive:
                    yield _zip(archive)
            else:
                file.seek(0)
                yield _legacy(file)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error) as error:
            raise WeightsError(f"it is truncated or damaged: {error}") from error


def _zip(archive: zipfile.ZipFile) -> PickledFile:
    names = {info.filename: info for info in archive.infolist()}
    roots = [name.split("/")[0] for name in names if name.split("/")[1:] == ["data.pkl"]]
    if len(roots) != 1:
        raise WeightsError("it is a zip archive, but not one of torch.save")
    root = roots[0]
    if f"{root}/constants.pkl" in names:
        raise WeightsError("it is a TorchScript program: save the state_dict() of its model instead")
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in names.values()):
        raise WeightsError("another program compressed or encrypted it: torch.save does neither")
    order = f"{root}/byteorder"
    if order in names and archive.read(order) != b"little":
        raise WeightsError("it was written on a big-endian machine: save it again on a common one")

    def read(storage: Storage) -> bytearray:
        name = f"{root}/data/{storage.key}"
        if name not in names:
            raise WeightsError(f"it is damaged: the archive has no {name}")
        return bytearray(archive.read(name))  # this also compares the checksum, which torch does not

    with archive.open(f"{root}/data.pkl") as file:
        tree, _ = _unpickle(file)
    return PickledFile(tree, read)


def _legacy(file: BinaryIO) -> PickledFile:
    magic, _ = _unpickle(file)
    if magic != LEGACY_MAGIC:
        raise WeightsError("it is a pickle, but not one of torch.save")
    protocol, _ = _unpickle(file)
    system, _ = _unpickle(file)
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError(f"it is of a kind of torch.save that is not supported: protocol {protocol}, {system}")
    tree, storages = _unpickle(file)
    keys, _ = _unpickle(file)
    places: dict[str, tuple[int, int]] = {}
    whole = os.fstat(file.fileno()).st_size
    for key in keys if isinstance(keys, list) else []:
        storage = storages.get(str(key))
        if storage is None or storage.dtype is None:
            raise WeightsError(f"it is damaged, or holds numbers of a type that is not supported: storage {key}")
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storage.numel:
            raise WeightsError(f"it is damaged: storage {key} has {numel} numbers instead of {storage.numel}")
        place, length = file.tell(), numel * storage.dtype.itemsize
        if place + length > whole:
            raise WeightsError("it is truncated")
        places[storage.key] = (place, length)
        file.seek(place + length)

    def read(storage: Storage) -> bytearray:
        place, length = places.get(storage.key, (0, 0))
        file.seek(place)
        return bytearray(file.read(length))

    return PickledFile(tree, read)
