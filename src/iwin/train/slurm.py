"""The Slurm job that this process belongs to: what of it a run writes down, and what it asks of earlier starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iwin.errors import ConfigError
from iwin.train.requeue import job_name

SUBMITTED_VARIABLE = "IWIN_SUBMITTED"  # the version of the code when the job was submitted, as JSON
# A run that is killed again and again before it has saved anything, as where memory does not suffice, shall not be
# started for ever.
MOST_STARTS = 5


@dataclass(frozen=True)
class Job:
    """name: 12, or 12_3 in an array: the same after a requeue. restarts: how often it was requeued."""

    name: str
    restarts: int


def this_job(environ: Mapping[str, str] = os.environ) -> Job | None:
    """The job of this process; None outside of Slurm."""
    if "SLURM_JOB_ID" not in environ:
        return None
    return Job(job_name(environ), int(environ.get("SLURM_RESTART_COUNT") or 0))


def described(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What a start's provenance says about its job: nothing outside of Slurm."""
    job = this_job(environ)
    told = environ.get(SUBMITTED_VARIABLE)
    return {} if job is None else {"slurm": asdict(job) | {"submitted_code": json.loads(told) if told else None}}


def starts_of(folder: Path) -> list[dict[str, Any]]:
    """The starts of the run in a folder, as its provenance.json lists them."""
    file = folder / "provenance.json"
    return json.loads(file.read_text())["starts"] if file.is_file() else []


def starts_of_job(job: Job, starts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those among the starts that were this job's."""
    return [start for start in starts if (start.get("slurm") or {}).get("name") == job.name]


def finished_run(first: Path) -> Path | None:
    """The folder in which this job's run has finished, where it was requeued all the same; None where there is none.

    first: the folder of this configuration; further runs of it have a number at the end.
    """
    job = this_job()
    number, path = 1, first
    while job is not None and (path / "result.json").is_file():
        if starts_of_job(job, starts_of(path)):
            return path
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return None


def check_progress(folder: Path, checkpoint: str | None) -> None:
    """ConfigError where this job has begun at the same checkpoint too often."""
    job = this_job()
    if job is None:
        return
    last = [start["checkpoint"] for start in starts_of_job(job, starts_of(folder))][-MOST_STARTS:]
    if last == [checkpoint] * MOST_STARTS:
        raise ConfigError(
            f"Slurm job {job.name} has started {MOST_STARTS} times from {checkpoint or 'the beginning'} without saving "
            "anything further: its log says how they ended (often too little memory: fewer data.num_workers, a smaller "
            "data.batch_size). Submitted anew, it goes on"
        )


def changed_code(folder: Path, now: Mapping[str, Any]) -> str | None:
    """A line where the code is not what it was when this job was submitted, or had started before; None elsewhere."""
    job, told = this_job(), os.environ.get(SUBMITTED_VARIABLE)
    if job is None:
        return None
    earlier = starts_of_job(job, starts_of(folder))
    then = json.loads(told) if told else earlier[0]["code"] if earlier else now
    if then == dict(now):
        return None
    when = "was submitted" if told else "first started"
    changed = f"The code has changed since this job {when}: {_version(then)} then, {_version(now)} now."
    return f"{changed} What runs is the latter."


def in_queue(job: str) -> bool:
    """Whether Slurm has a job that waits or runs. ConfigError where it cannot be asked."""
    if shutil.which("squeue") is None:
        raise ConfigError(f"Slurm job {job} may be running a cell of this sweep, and there is no squeue here to ask")
    done = subprocess.run(["squeue", "--noheader", "--jobs", job, "--format=%T"], capture_output=True, text=True)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise ConfigError(f"Slurm job {job} may be running a cell of this sweep: {done.stderr.strip()}")
    return bool(done.stdout.strip())


def _version(code: Mapping[str, Any]) -> str:
    commit = str(code.get("commit") or "no commit")[:10]
    return f"{commit} with changes {str(code.get('changes'))[:8]}" if code.get("dirty") else commit
