"""The folder of a run: found again by the same command, never written over.

Its name says model, data and a hash of the configuration. It holds config.yaml, provenance.json,
metrics.csv, curves.png, checkpoints/ and, once the run has ended, result.json.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from iwin.errors import ConfigError
from iwin.runtime import config_hash, provenance
from iwin.secrets import redact
from iwin.train.durable import put_text
from iwin.train.recovery import BEST, Recovery, update_checkpoints
from iwin.train.slurm import described, starts_of
from iwin.weights.digest import damage

# What changes where, how visibly or how fast a run goes, and nothing that it computes or keeps.
NOT_IDENTITY = {
    "": ("paths", "logger", "log_every", "retry_failed", "paper"),
    # nonfinite: a run that it stopped goes on with other limits.
    "callbacks": ("progress", "curves", "heartbeat", "preemption", "nonfinite"),
    "data": ("num_workers", "prefetch", "pin_memory"),
    "trainer": ("profiler",),
}
LOCK = ".lock"  # in the folder: locked by the process that holds the run
# What the process that holds a run tells those that it starts: the folder, and where in the run to begin.
RUN_FOLDER_VARIABLE = "IWIN_RUN_FOLDER"
CHECKPOINT_VARIABLE = "IWIN_CHECKPOINT"


def shown(path: Path) -> str:
    """A path as people read it: from the current folder where it is below that, else whole."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def identity(config: dict[str, Any]) -> str:
    """The hash that a run's folder carries: of all that decides what it computes."""
    kept = {key: value for key, value in config.items() if key not in NOT_IDENTITY[""]}
    for group, without in NOT_IDENTITY.items():
        if group:
            kept[group] = {key: value for key, value in config[group].items() if key not in without}
    return config_hash(kept)


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


def wait_until_free(folder: Path) -> bool:
    """Wait while a process holds the folder of a run, as one does whose sweep was killed: it is stopping.

    Returns whether the run has ended.
    """
    if (folder / LOCK).is_file():
        with (folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"Waiting for the process that still runs in {shown(folder)}.", flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
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
    def take(cls, first: Path, rank: int) -> RunFolder:
        """`first` (see run_path), if its run is this command's unfinished one, or the next number that is.

        A folder whose run has ended, or that another process is using, is passed over. Rank 0 decides and
        holds the folder; the processes that it starts are told by the environment.

        ConfigError where the folder cannot be written.
        """
        told = os.environ.get(RUN_FOLDER_VARIABLE)
        if told:
            return cls(Path(told), None)
        passed_over = ""
        for path in numbered(first):
            if (path / "result.json").is_file():
                passed_over = f"the one in {path.name} has ended"
                continue
            if rank > 0:
                return cls(path, None)
            lock = cls._lock_folder(path)
            if lock is not None:
                os.environ[RUN_FOLDER_VARIABLE] = str(path)
                return cls(path, lock, passed_over)
            passed_over = f"the one in {path.name} is still running"
        raise AssertionError("there is always another number")

    @staticmethod
    def _lock_folder(path: Path) -> IO[str] | None:
        """An open, locked file in the folder, which is made; None where another process has it."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / LOCK).open("w")
        except OSError as error:
            raise ConfigError(
                f"cannot write the run folder {path}: {error.strerror}. Set paths.runs_dir (or IWIN_RUNS) to a folder "
                f"that you may write to."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        # A forked data worker has the lock too, and outlives a killed run by seconds, in which the same command
        # would take the folder to be in use and begin another run.
        os.register_at_fork(after_in_child=lock.close)
        return lock

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
        if not self.config_file.exists() and [file.name for file in self.path.iterdir()] == [LOCK]:
            (self.path / LOCK).unlink()
            self.path.rmdir()
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
