"""Whether a command has a run to begin or to go on with, and where: asked before anything is made for it.

What may stand against it are earlier starts of the same Slurm job, which is requeued with the same command, but not
always with the same configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from iwin.errors import ConfigError
from iwin.secrets import redact
from iwin.train.ranks import flatten, named_differences
from iwin.train.run_folder import RUN_FOLDER_VARIABLE, RunFolder, begun_by_job, identifying, shown
from iwin.train.slurm import before_requeue, check_restarts, job_folders, this_job


def claim(
    first: Path,
    config: dict[str, Any],
    rank: int,
    *,
    cell: bool = False,
    meanwhile: Callable[[], object] = lambda: None,
) -> RunFolder | None:
    """The folder of the run, held (see RunFolder.take); None where the run has finished, which is said.

    first: see run_path. config: of the run as plain values, redacted. cell: `first` is the folder of a sweep's cell,
    and no other will do.

    ConfigError where this job was requeued too often without its run beginning; where what was begun is not what the
    command is now; and as RunFolder.take.
    """
    if RUN_FOLDER_VARIABLE in os.environ:  # the process that started this one has decided
        return RunFolder.take(first, rank)
    check_restarts(first.parent)
    finished = finished_run(first, cell)
    if finished is None:
        check_same(first, config, cell)
        folder = RunFolder.take(first, rank, cell=cell, meanwhile=meanwhile)
        if not folder.result_file.is_file():
            return folder
        with folder:  # which another process held until its run had ended
            finished = folder.path
    print(f"The run of this {'cell' if cell else 'Slurm job'} has finished, in {shown(finished)}.", flush=True)
    return None


def finished_run(first: Path, cell: bool = False) -> Path | None:
    """The folder in which the run has finished, of a cell, or of a job that was requeued all the same; else None."""
    own = [first] if cell else begun_by_job(first)
    finished = [path for path in own if (path / "result.json").is_file()]
    return finished[0] if finished and finished == own else None


def check_same(first: Path, config: dict[str, Any], cell: bool = False) -> None:
    """ConfigError where this command was begun with another configuration: in its cell, or, by this job before it was
    requeued, in another folder. It would silently begin anew, or go on as something else.
    """
    if cell:
        _compare(first, config)
        return
    job = this_job()
    if job is None or begun_by_job(first):
        return
    for folder, starts in job_folders(first.parent).items():
        # A job may train several things. The first of a recorded command is Python.
        same_command = any(start["command"][1:] == redact(sys.argv) for start in before_requeue(job, starts))
        if same_command and not (folder / "result.json").is_file():
            _compare(folder, config)


def _compare(folder: Path, config: dict[str, Any]) -> None:
    """ConfigError where the run that has begun in `folder` is another one than `config`."""
    file = folder / "config.yaml"
    if not file.is_file():
        return
    then, now = (_values(text) for text in (file.read_text(), OmegaConf.to_yaml(OmegaConf.create(config))))
    if config["data"].get("num_classes") is None:  # the data say, once they are there
        then.pop("data.num_classes", None)
        now.pop("data.num_classes", None)
    if then != now:
        raise ConfigError(
            f"{shown(folder)} has what this command began before, and now it is another run: "
            f"{named_differences(now, then, 'there')}. Restore conf/ and give the command again, and it goes on there; "
            "given again as conf/ is now, it begins anew, in a folder of its own"
        )


def _values(text: str) -> dict[str, str]:
    """What identifies the run of a config.yaml, by dotted keys."""
    config = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(config, dict)
    return dict(flatten(identifying({str(key): value for key, value in config.items()})))
