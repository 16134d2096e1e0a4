"""The folder of a run: found again by the same command, never written over.

Its name says model, data and a hash of the configuration. It holds config.yaml, provenance.json,
metrics.csv, curves.png, checkpoints/ and, once the run has ended, result.json.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from iwin.errors import ConfigError
from iwin.runtime import config_hash, provenance
from iwin.secrets import redact
from iwin.train.durable import put_text
from iwin.train.folder_lock import LOCK as LOCK
from iwin.train.folder_lock import Held, hold, remove_empty, wait_for
from iwin.train.recovery import BEST, Recovery, update_checkpoints
from iwin.train.slurm import described, earlier_starts, job_folders, starts_of
from iwin.weights.digest import damage

# What changes where, how visibly or how fast a run goes, and nothing that it computes or keeps.
NOT_IDENTITY = {
    "": ("paths", "logger", "log_every", "retry_failed", "paper"),
    # nonfinite: a run that it stopped goes on with other limits.
    "callbacks": ("progress", "curves", "heartbeat", "preemption", "nonfinite"),
    "data": ("num_workers", "prefetch", "pin_memory"),
    "trainer": ("profiler",),
}
# `iwin plan` and `iwin sync` lock a folder for a moment, to see whether it is free.
MOMENT_S = 1.0
# A node that was lost leaves its locks on a shared disk until the disk's server gives it up, and a process that waits
# for a disk cannot be killed at once.
WAIT_S = 300.0
# What the process that holds a run tells those that it starts: the folder, and where in the run to begin.
RUN_FOLDER_VARIABLE = "IWIN_RUN_FOLDER"
CHECKPOINT_VARIABLE = "IWIN_CHECKPOINT"


def shown(path: Path) -> str:
    """A path as people read it: from the current folder where it is below that, else whole."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def identifying(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides what its run computes."""
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY[""]}
    for group, without in NOT_IDENTITY.items():
        if group:
            kept[group] = {key: value for key, value in config[group].items() if key not in without}
    return kept


def identity(config: dict[str, Any]) -> str:
    """The hash that a run's folder carries."""
    return config_hash(identifying(config))


def folder_name(config: dict[str, Any]) -> str:
    """`<model>-<data>-<hash>`."""
    model = config["model"].get("name") or config["model"].get("model_name")
    return f"{model}-{config['data']['name']}-{identity(config)}"


def run_path(runs: Path, config: dict[str, Any]) -> Path:
    """The first folder below `runs` for `config`, redacted here as it is written."""
    return runs.absolute() / folder_name(redact(config))


def numbered(first: Path) -> Iterator[Path]:
    """The folders that a command may have, in the order in which it takes them: `first`, `first`-2 and so on."""
    yield first
    for number in itertools.count(2):
        yield first.with_name(f"{first.name}-{number}")


def begun_by_job(first: Path) -> list[Path]:
    """Those among the folders of a command (see numbered) in which this Slurm job began before it was requeued."""
    name = re.compile(rf"{re.escape(first.name)}(-\d+)?")
    return [path for path in job_folders(first.parent) if name.fullmatch(path.name) and earlier_starts(path)]


def wait_until_free(folder: Path) -> bool:
    """Wait while a process holds the folder of a run, as one does whose sweep was killed: it is stopping.

    Returns whether the run has ended.
    """
    wait_for(folder, lambda: print(f"Waiting for the process that still runs in {shown(folder)}.", flush=True))
    return (folder / "result.json").is_file()


class RunFolder:
    """One run's folder, held by this process while in a `with`. `resumed` says whether it had begun before."""

    def __init__(self, path: Path, lock: IO[str] | None, passed_over: str = "") -> None:
        self.path = path
        self.passed_over = passed_over  # why it is not the command's first folder, in words
        self._lock = lock
        self.resumed = self.config_file.is_file()

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def leads(self) -> bool:
        """Whether this process holds the run, and decides for the others."""
        return self._lock is not None

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @classmethod
    def take(
        cls, first: Path, rank: int, *, cell: bool = False, meanwhile: Callable[[], object] = lambda: None
    ) -> RunFolder:
        """`first` (see run_path), if its run is this command's unfinished one, or the next number that is.

        A folder whose run has ended, or that another process is using, is passed over. Never one that is this
        command's and no other's: of a cell of a sweep, which is `first` alone, or begun by this Slurm job before it was
        requeued, which it looks for first. That is waited for, for WAIT_S at most; its run may have ended then. Rank 0
        decides and holds the folder; the processes that it starts are told by the environment.

        meanwhile: called every moment while this waits.

        ConfigError where the folder cannot be written or locked, and where another process holds it for too long.
        """
        told = os.environ.get(RUN_FOLDER_VARIABLE)
        if told:
            return cls(Path(told), None)
        passed_over = ""
        own = [] if cell else [path for path in begun_by_job(first) if not (path / "result.json").is_file()]
        for path in itertools.chain(own, numbered(first)):
            if not cell and (path / "result.json").is_file():
                passed_over = f"the one in {path.name} has ended"
                continue
            if rank > 0:
                return cls(path, None)
            ours = cell or bool(earlier_starts(path))
            try:
                lock = cls._wait(path, meanwhile) if ours else hold(path, MOMENT_S, meanwhile=meanwhile)
            except Held:
                passed_over = f"the one in {path.name} is still running"
                continue
            if not ours and (path / "result.json").is_file():  # it has ended in that moment
                lock.close()
                passed_over = f"the one in {path.name} has ended"
                continue
            os.environ[RUN_FOLDER_VARIABLE] = str(path)
            return cls(path, lock, passed_over)
        raise AssertionError("there is always another number")

    @staticmethod
    def _wait(path: Path, meanwhile: Callable[[], object]) -> IO[str]:
        """The lock of a folder that is this command's and no other's."""

        def announce(holder: str) -> None:
            print(f"Waiting for {shown(path)}, for {WAIT_S:g} s at most: it is held by {holder}.", flush=True)

        try:
            return hold(path, WAIT_S, announce=announce, meanwhile=meanwhile)
        except Held as held:
            raise ConfigError(
                f"the folder of this run, {shown(path)}, is still held by {held.holder} after {WAIT_S:g} s. To begin "
                "anew elsewhere would leave what is in there: end that process, or wait until the disk gives up the "
                "locks of a lost node, and give the same command again"
            ) from held

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        """Let others have the folder, and the next run of this process look for its own.

        A folder in which nothing was begun goes again.
        """
        os.environ.pop(RUN_FOLDER_VARIABLE, None)
        os.environ.pop(CHECKPOINT_VARIABLE, None)
        if self._lock is None:
            return
        if not self.config_file.exists():
            remove_empty(self.path)
        self._lock.close()

    def write_start(self, config: dict[str, Any], seed: int, data: dict[str, Any], recovery: Recovery) -> None:
        """config.yaml and provenance.json; a resumed run adds its start to the list, and changes no other.

        OSError where the disk takes no more.
        """
        if not self.resumed:
            put_text(self.config_file, OmegaConf.to_yaml(OmegaConf.create(config)))
        starts = starts_of(self.path)
        checkpoint = None if recovery.checkpoint is None else recovery.checkpoint.name
        begun = {"checkpoint": checkpoint, "recovery": list(recovery.notes)}
        starts.append({**provenance(seed, data), **described(), **begun})
        put_text(self.path / "provenance.json", json.dumps({"starts": starts}, indent=1) + "\n")

    def take_back_start(self) -> None:
        """Undo `write_start`, where what was to begin then cannot be made: a folder in which nothing began goes again.

        OSError where the disk does not take it.
        """
        starts = starts_of(self.path)[:-1]
        provenance_file = self.path / "provenance.json"
        if starts:
            put_text(provenance_file, json.dumps({"starts": starts}, indent=1) + "\n")
        else:
            provenance_file.unlink()
            self.config_file.unlink()

    def write_result(self, result: dict[str, Any]) -> None:
        """result.json, which marks the run as ended."""
        put_text(self.result_file, json.dumps(result, indent=1) + "\n")


def find_checkpoint(given: str, say: Callable[[str], None] = print) -> Path:
    """A file as it is; of a run folder the best checkpoint, else the newest, of those that are as they were saved.

    `say` is told of those that are not; nothing in the folder changes. ConfigError where there is none.
    """
    path = Path(given).absolute()
    if path.is_dir():
        folder = path / "checkpoints"
        for checkpoint in [folder / BEST, *update_checkpoints(folder)]:
            if checkpoint.exists():
                why = damage(checkpoint)
                if why is None:
                    return checkpoint
                say(f"Passed over {checkpoint.name}: {why}.")
        raise ConfigError(f"checkpoint={given}: the folder has no sound checkpoints/{BEST} or update-*.ckpt")
    if not path.is_file():
        raise ConfigError(f"checkpoint={given}: there is no such file or run folder")
    return path
