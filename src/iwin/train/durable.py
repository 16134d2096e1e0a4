"""Files that outlive a kill at any moment, a full disk and a machine that dies.

New content goes to NAME.new beside the file, is flushed to the disk, and takes the file's place in one step. What
stood there before stays until then, whatever goes wrong. The sha256 of a checkpoint is there before the checkpoint
is: a kill in between leaves a hash without a file, which is nothing, and not a file without a hash, which nobody
could trust.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from iwin.weights.digest import SUFFIX, digest_file, digest_text, recorded

UNFINISHED = ".new"
# What file systems without hard links answer, and those with links to only so many.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
CHUNK = 1 << 22


class Sink:
    """A file being written, with the sha256 of what went into it: what torch.save takes for a file.

    An error is kept and what follows it is dropped, as torch's writer cannot be left in the middle without another
    error that hides the first. `finish` raises it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hash = hashlib.sha256()
        self._error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        try:
            rest = view if self._error is None else view[:0]
            while len(rest):
                rest = rest[os.write(self._descriptor, rest) :]
            self._hash.update(view)
        except OSError as error:
            self._error = error
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def finish(self) -> str:
        """The content is on the disk from here on; returns its sha256. Raises the first OSError of all."""
        if self._error is not None:
            raise self._error
        os.fsync(self._descriptor)
        return self._hash.hexdigest()


def put_checkpoint(path: Path, fill: Callable[[Sink], object]) -> None:
    """Put what `fill` writes in the place of `path`, with its sha256 beside it.

    Raises OSError, with what stood there before as it was.
    """
    make_folder(path.parent)
    _publish(path, [_write(_unfinished(path), fill)])


def link_checkpoint(source: Path, path: Path) -> None:
    """Make the checkpoint `source` known as `path` too: as a hard link, or where there are none as a copy.

    Raises OSError, with what stood there before as it was.
    """
    new = _unfinished(path)
    new.unlink(missing_ok=True)
    try:
        os.link(source, new)
        digests = recorded(source)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        digests = [_write(new, lambda sink: _copy(source, sink))]
    _publish(path, digests)
    new.unlink(missing_ok=True)  # two links to one file do not replace each other


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and then its sha256: no file is ever without one."""
    path.unlink(missing_ok=True)
    digest_file(path).unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> list[str]:
    """Remove what writes that were cut short have left in `folder`; returns the names of their checkpoints."""
    cut = []
    for file in sorted(folder.glob(f"*{UNFINISHED}")):
        file.unlink()
        if not file.name.endswith(SUFFIX + UNFINISHED):
            cut.append(file.name.removesuffix(UNFINISHED))
    for file in folder.glob(f"*{SUFFIX}"):
        if not file.with_name(file.name.removesuffix(SUFFIX)).exists():
            file.unlink()
    return cut


def put_text(path: Path, text: str) -> None:
    """Put `text` in the place of the file `path`. Raises OSError, with what stood there before as it was."""
    _write(_unfinished(path), lambda sink: sink.write(text.encode()))
    os.replace(_unfinished(path), path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder that is not lost when the machine dies."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Names that were given in `folder` are on the disk from here on."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have nothing to flush for a folder, and say so
            raise
    finally:
        os.close(descriptor)


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + UNFINISHED)


def _write(path: Path, fill: Callable[[Sink], object]) -> str:
    """Write a file and see it to the disk; returns its sha256. Nothing is left where that fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            sink = Sink(descriptor)
            fill(sink)
            return sink.finish()
        finally:
            os.close(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _publish(path: Path, digests: list[str]) -> None:
    """Give the finished file its name. Its sha256 comes before it, and until then beside that of the older file."""
    before = recorded(path) if path.exists() else []
    put_text(digest_file(path), digest_text(path, [*before, *digests]))
    os.replace(_unfinished(path), path)
    sync_folder(path.parent)
    if before:
        put_text(digest_file(path), digest_text(path, digests))


def _copy(source: Path, sink: Sink) -> None:
    with source.open("rb") as file:
        while chunk := file.read(CHUNK):
            sink.write(chunk)
