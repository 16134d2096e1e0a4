"""A folder on the disk of a node that holds the shards of a remote data set as they are needed, up to a bound.

All processes of the node share it through locks on files, without a process of its own. Of a data set there are

    <folder>/<hash of its manifest>/manifest.json
                                    train-00003.idx           all of them, before training begins
                                    train-00003.tar           as many as the bound lets in
                                    train-00003.tar.partial   being fetched; counts as the whole shard
                                    train-00003.tar.lock      held by the process that fetches it
                                    room.lock                 held while it is decided what is removed, for moments

Another version of the data set has another manifest, so the two never mix. A shard gets its name when its size and
SHA-256 are those of the manifest and its bytes are on the disk; one that is found is trusted by its size. The
shards that were asked for the longest time ago are removed first. A process that reads a removed shard reads on.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from iwin.data.fetch import NotThere, Patience, RemoteFile, Stop, check_url, fetch_file, fetch_files
from iwin.data.file_lock import is_locked, locked, take
from iwin.data.index import ShardIndex, index_path
from iwin.data.manifest import MANIFEST, read_manifest
from iwin.errors import ConfigError, DataError

SHARD_NAME = re.compile(r"\w[\w.-]*\.tar", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")


class Shard(NamedTuple):
    """What the manifest tells of a shard. size: in bytes; sha256: in hex."""

    size: int
    sha256: str


class NoRoom(DataError):
    """What the cache may hold is taken by shards that are in use, soon needed, or being fetched."""


class ShardCache:
    """The shards of the data set at `url`, kept below `folder` on a disk of this node.

    limit_bytes: of all shards of this data set here; the indexes are not counted. Other data sets may share the
        folder, each with its own bound.

    manifest: as read_manifest returns it. shards: all that it tells of, by name. root: the data set's folder, which
    has the indexes that were fetched, and any shards. Making a cache fetches the manifest. The cache can be forked
    and pickled.

    Raises:
        ConfigError: the URL is of another kind (see check_url), or the bound too small to hold two shards.
        DataError: the manifest is missing, cannot be fetched or is damaged, or `folder` cannot be written to.
    """

    def __init__(self, url: str, folder: Path, *, limit_bytes: int, patience: Patience) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self.limit_bytes = limit_bytes
        self.patience = patience
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "manifest.lock").touch()
        except OSError as error:
            raise DataError(f"{folder} cannot hold shards ({error.strerror}). Choose another folder.") from error
        # The name that holds the manifest until its hash is known is one for all: each waits for the one before.
        with locked(folder / "manifest.lock"):
            self.root, self.manifest = self._fetch_manifest(folder)
        self.shards = _shards(self.manifest, f"{self.url}/{MANIFEST}")
        self.largest = max(shard.size for shard in self.shards.values())
        if limit_bytes < 2 * self.largest:
            raise ConfigError(
                f"the cache in {folder} may hold {limit_bytes:,} bytes, and must hold at least two shards of up to "
                f"{self.largest:,} bytes. Allow it more."
            )

    def _fetch_manifest(self, folder: Path) -> tuple[Path, dict[str, Any]]:
        url, path = f"{self.url}/{MANIFEST}", folder / MANIFEST
        try:
            digest = fetch_file(RemoteFile(url, path), self.patience)
        except NotThere as error:
            raise DataError(
                f"{url} is not there. A data set that is fetched needs its manifest, as nothing else lists the shards: "
                "iwin shards write makes it with them. See that data.root is right and all its files are uploaded."
            ) from error
        try:
            manifest = read_manifest(folder)
            assert manifest is not None
            root = folder / digest[:16]
            root.mkdir(exist_ok=True)
            path.replace(root / MANIFEST)
        except DataError as error:
            raise DataError(f"{url} is not what it should be. {error}") from error
        finally:
            path.unlink(missing_ok=True)
        return root, manifest

    def fetch_indexes(self, names: Iterable[str]) -> None:
        """Fetch the indexes of these shards, where they are not here yet; each must be that of its shard.

        Raises:
            DataError: one is missing, cannot be fetched, is damaged, or belongs to other bytes than the manifest's.
        """
        paths = {name: index_path(self.root / name) for name in names}
        with locked(self.root / "indexes.lock"):
            missing = [path for path in paths.values() if not path.is_file()]
            fetch_files([RemoteFile(f"{self.url}/{path.name}", path) for path in missing], self.patience)
            for name, path in paths.items():
                try:
                    index = ShardIndex(self.root / name, fetched=False)
                except DataError as error:
                    path.unlink()
                    raise DataError(f"{self.url}/{path.name} is not what it should be. {error}") from error
                if Shard(index.tar_size, index.sha256) != self.shards[name]:
                    path.unlink()
                    raise DataError(
                        f"{self.url}/{path.name} is the index of another {name} than the manifest there tells of. "
                        "Upload the manifest, the shards and the indexes of one writing."
                    )

    def path(self, name: str) -> Path:
        """The whole, verified shard `name` on this disk, fetched where it is not here.

        It stays until others need its room, which may be before the caller has opened it: see `open`. Where another
        process fetches it, or fetches others into the room that it needs, this waits.

        Raises:
            NoRoom: read-ahead holds more of the bound than this process was told it is.
            DataError: it cannot be fetched (see fetch_files), or the disk has less room than the bound says.
        """
        return self._path(name, ahead=False, stop=None)

    def open(self, name: str) -> int:
        """A descriptor of the shard `name`, fetched where it is not here, to read from. Raises as `path`.

        As long as it is open, a shard that was removed still takes its room on the disk.
        """
        while True:
            try:
                return os.open(self.path(name), os.O_RDONLY)
            except FileNotFoundError:
                continue  # removed just now, for another one

    def hold(self, name: str, stop: Stop | None = None) -> int:
        """Have the shard `name` here, fetched where it is not, until what is returned is given to file_lock.release.

        Held shards always leave room for one more of any size, so that a process can have what it needs at once.

        Raises:
            NoRoom: they would not. DataError as `path`; asyncio.CancelledError by `stop`.
        """
        while True:
            path = self._path(name, ahead=True, stop=stop)
            with locked(self.root / "room.lock"):
                if self._is_here(name):
                    self._make_room(name, ahead=True)
                    descriptor = take(path, shared=True)
                    assert descriptor is not None
                    return descriptor

    def _path(self, name: str, *, ahead: bool, stop: Stop | None) -> Path:
        path, shard = self.root / name, self.shards[name]
        if self._is_here(name):
            self._mark_used(path)
            return path
        with locked(_lock(path)):
            _partial(path).unlink(missing_ok=True)  # of a process that was killed
            if self._is_here(name):
                return path
            while True:
                with locked(self.root / "room.lock"):
                    others = self._make_room(name, ahead=ahead)
                    if others is None:
                        _partial(path).touch()  # from now on its room is taken
                        break
                with locked(_lock(others)):
                    pass  # until it is here: only then it can be removed
            try:
                fetch_file(RemoteFile(f"{self.url}/{name}", path, shard.size, shard.sha256), self.patience, stop)
            finally:
                _partial(path).unlink(missing_ok=True)
            self._mark_used(path)
        return path

    def _is_here(self, name: str) -> bool:
        try:
            return (self.root / name).stat().st_size == self.shards[name].size
        except FileNotFoundError:
            return False

    def _mark_used(self, path: Path) -> None:
        now = time.time_ns()  # finer than the clock of the file system
        with suppress(FileNotFoundError):  # removed since it was seen; whoever opens it finds out
            os.utime(path, ns=(now, now))

    def _make_room(self, name: str, *, ahead: bool) -> Path | None:
        """Remove shards until `name` fits, with the room lock held; None where it does now.

        ahead: the room for one more shard must stay free of shards that cannot be removed. Otherwise, where those
        that are being fetched are in the way, one of them is returned, to wait for.
        """
        need = self.shards[name].size
        coming = self._coming(name)
        taken = sum(self.shards[path.name].size for path in coming)
        here = {
            path: path.stat()
            for path in (self.root / entry for entry in os.listdir(self.root) if entry in self.shards)
            if path.name != name and path not in coming
        }
        held = {path for path in here if is_locked(path)}
        fixed = taken + sum(here[path].st_size for path in held)
        if fixed + need + (self.largest if ahead else 0) > self.limit_bytes:
            if coming and not ahead:
                return coming[0]
            raise NoRoom(
                f"{fixed:,} of the {self.limit_bytes:,} bytes that the cache {self.root} may hold are in use or soon "
                f"needed, and {name} takes {need:,}. Allow it more, or read fewer shards ahead."
            )
        total = taken + sum(stat.st_size for stat in here.values()) + need
        for path in sorted(here.keys() - held, key=lambda path: here[path].st_mtime_ns):
            if total <= self.limit_bytes:
                break
            path.unlink()
            total -= here[path].st_size
        if not self._is_here(name):
            self._check_disk(need, coming)
        return None

    def _coming(self, name: str) -> list[Path]:
        """The shards that other processes are fetching now. What a killed one has left is removed."""
        coming = []
        for entry in sorted(os.listdir(self.root)):
            path = self.root / entry.removesuffix(".partial")
            if path.name == entry or path.name == name or path.name not in self.shards:
                continue
            if is_locked(_lock(path)):
                coming.append(path)
            else:
                _partial(path).unlink(missing_ok=True)
        return coming

    def _check_disk(self, need: int, coming: list[Path]) -> None:
        free = shutil.disk_usage(self.root).free
        for path in coming:
            with suppress(FileNotFoundError):  # it is whole since
                free -= max(self.shards[path.name].size - _partial(path).stat().st_size, 0)
        if free < need:
            raise DataError(
                f"the disk of {self.root} has {max(free, 0):,} bytes free, and the next shard takes {need:,}. It "
                f"may be filled to {self.limit_bytes:,}: allow less than there is, make room, or choose another disk."
            )


def _lock(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _shards(manifest: dict[str, Any], where: str) -> dict[str, Shard]:
    """The shards of all splits. DataError where they are told otherwise than write_manifest does.

    What comes from a server becomes the name of a file here, so it is checked to be no more than a name.
    """
    try:
        told = [shard for split in manifest["splits"].values() for shard in split["shards"]]
        shards = {str(shard["name"]): Shard(int(shard["bytes"]), str(shard["sha256"])) for shard in told}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} is damaged ({type(error).__name__}: {error}).") from error
    for name, shard in shards.items():
        if not (SHARD_NAME.fullmatch(name) and SHA256.fullmatch(shard.sha256) and shard.size > 0):
            raise DataError(f"{where} tells of a shard that cannot be: {name!r}, {shard}.")
    if not shards or len(shards) != len(told):
        raise DataError(f"{where} tells of {'no shards' if not shards else 'a shard twice'}.")
    return shards
