"""The file that tells what is being written to a folder: there from before the first shard to after the manifest.

`unfinished.json` holds all that the bytes of the data set depend on, so that the same command goes on where a run
was ended, and another one is refused. The run that writes keeps it locked.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iwin.data.manifest import UNFINISHED
from iwin.data.writer import refuse_used
from iwin.errors import DataError

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
# The processes of a run that was killed end, and give its lock free, a moment after it.
TRIES = 50
PAUSE_S = 0.1


def refuse_finished(root: Path) -> None:
    """Raise DataError where `root` holds a data set, or shards, of which no plan of ours tells."""
    if not (root / UNFINISHED).exists():
        refuse_used(root)


@contextmanager
def unfinished(root: Path, told: dict[str, Any]) -> Iterator[None]:
    """Hold the folder `root` while the data set that `told` describes is written to it, or written to its end.

    told: values of JSON by name, in dictionaries to any depth; of hashes, whose names end in sha256, an error tells
        no more than that they differ.
    Leaving the context says that the data set is whole. Leaving it through an exception keeps the plan where a
    shard was finished, for the next run, and nothing otherwise.

    Raises:
        DataError: another process writes to `root`; it holds a data set already, or the beginning of another.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / UNFINISHED
    descriptor = _locked(path)
    try:
        before = _read(path)
        if before is None:
            # The file was made just now, or a run ended before it had written the plan, so before its first shard.
            try:
                refuse_used(root)
            except DataError:
                path.unlink()
                raise
            os.ftruncate(descriptor, 0)
            os.write(descriptor, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
            os.fsync(descriptor)
            sync_folder(root)
        else:
            _refuse_other(root, before, told)
        try:
            yield
        except BaseException:
            if not any(root.glob("*.tar")):
                path.unlink()
            raise
        sync_folder(root)  # no power loss may leave a data set without its manifest and without this file
        path.unlink()
        sync_folder(root)
    finally:
        os.close(descriptor)


def sync_folder(root: Path) -> None:
    """Bring the names of the files in `root` to the disk."""
    descriptor = os.open(root, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    """A descriptor of `path`, which is made where it is missing, locked for this process and those it forks.

    Those too, unlike the locks of file_lock.py: one that outlived this process by a moment would still write.
    """
    for _ in range(TRIES):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            time.sleep(PAUSE_S)
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            warnings.warn(f"{path.parent} cannot be locked: see that no other process writes to it.", stacklevel=2)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # of a file that the run before removed at its end
    raise DataError(f"another process is writing to {path.parent}. Wait for it, or write to another folder.")


def _read(path: Path) -> dict[str, Any] | None:
    """The plan in `path`; None where it was not written to its end."""
    try:
        plan = json.loads(path.read_bytes())
    except ValueError:
        return None
    return plan if isinstance(plan, dict) else None


def _refuse_other(root: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    was, is_now = _flat(before), _flat(now)
    differ = []
    for name in sorted(was.keys() | is_now.keys()):
        if was.get(name) != is_now.get(name):
            values = "" if name.endswith("sha256") else f" was {_shown(was, name)} and is {_shown(is_now, name)}"
            differ.append(name + (values or " differs"))
    if differ:
        raise DataError(
            f"{root} holds the beginning of another data set: {'; '.join(differ)}. To go on with it, give the command "
            f"that began it, on the same source; to begin again, remove {root}."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _shown(values: dict[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not given"
