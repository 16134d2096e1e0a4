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
from iwin.train.requeue import SlurmError, own_record

SUBMITTED_VARIABLE = "IWIN_SUBMITTED"  # the version of the code when the job was submitted, as JSON
# A run that is killed again and again before it has saved anything, as where memory does not suffice, shall not be
# started for ever.
MOST_STARTS = 5
WHY = (
    "its log says how they ended (often too little memory: fewer data.num_workers, a smaller data.batch_size). "
    "Submitted anew, it goes on"
)


@dataclass(frozen=True)
class Job:
    """name: its number, the same after a requeue; also of an array's task, which has one of its own. restarts: how
    often it was requeued.

    Not 12_3, as arrays have it: sbatch hands on the variables that say so, and a job that is submitted from within an
    array's task would be taken for that. It hands on the number of restarts as well, to a job that has none of its own:
    that number tells the starts of a job apart, and no more.
    """

    name: str
    restarts: int


def this_job(environ: Mapping[str, str] = os.environ) -> Job | None:
    """The job of this process; None outside of Slurm."""
    if "SLURM_JOB_ID" not in environ:
        return None
    return Job(environ["SLURM_JOB_ID"], int(environ.get("SLURM_RESTART_COUNT") or 0))


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


def earlier_starts(folder: Path) -> list[Mapping[str, Any]]:
    """The starts in a folder that were this job's before it was last requeued; none outside of Slurm.

    Not those since then: a second command in the same job, as people give them to salloc, is no requeue.
    """
    job = this_job()
    if job is None or not job.restarts:
        return []
    return before_requeue(job, starts_of_job(job, starts_of(folder)))


def before_requeue(job: Job, starts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those among a job's starts that were not since it was last requeued."""
    return [start for start in starts if start["slurm"]["restarts"] != job.restarts]


def job_folders(runs: Path) -> dict[Path, list[Mapping[str, Any]]]:
    """The folders in `runs` in which this job has started, in the order of their names, with these starts.

    None for a job that was not requeued: there is nothing to look for among what may be thousands.
    """
    job = this_job()
    found: dict[Path, list[Mapping[str, Any]]] = {}
    if job is None or not job.restarts:
        return found
    for file in sorted(runs.glob("*/provenance.json")):
        try:
            starts = starts_of_job(job, starts_of(file.parent))
        except (OSError, ValueError, KeyError):  # others' runs are there as well, and may be damaged or hidden
            continue
        if starts:
            found[file.parent] = starts
    return found


def check_progress(folder: Path, checkpoint: str | None) -> None:
    """ConfigError where this job was requeued and began at the same checkpoint too often."""
    job = this_job()
    if job is None:
        return
    began = {start["slurm"]["restarts"]: start["checkpoint"] for start in earlier_starts(folder)}  # each restart once
    if list(began.values())[-MOST_STARTS:] == [checkpoint] * MOST_STARTS:
        raise ConfigError(
            f"Slurm job {job.name} has started {MOST_STARTS} times from {checkpoint or 'the beginning'} without saving "
            f"anything further: {WHY}"
        )


def check_restarts(runs: Path) -> None:
    """ConfigError where this job was requeued too often without a run of it beginning in any folder of `runs`.

    What is killed so early leaves no start behind that `check_progress` could count.
    """
    job = this_job()
    if job is None or job.restarts < MOST_STARTS:
        return
    begun = [start["slurm"]["restarts"] for starts in job_folders(runs).values() for start in starts]
    if job.restarts - max(begun, default=-1) > MOST_STARTS and _restarts_of_record(job) == job.restarts:
        since = "since its run last began" if begun else "and its run has never begun"
        times = job.restarts - max(begun, default=0)
        raise ConfigError(f"Slurm job {job.name} was requeued {times} times {since}: {WHY}")


def _restarts_of_record(job: Job) -> int:
    """How often Slurm says that a job was restarted; what the job was told where Slurm cannot be asked."""
    if shutil.which("scontrol") is None:
        return job.restarts
    try:
        return int(own_record()[1]["Restarts"])
    except SlurmError:
        return job.restarts


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
        raise ConfigError(f"Slurm job {job} may be running this already, and there is no squeue here to ask")
    done = subprocess.run(["squeue", "--noheader", "--jobs", job, "--format=%T"], capture_output=True, text=True)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise ConfigError(f"Slurm job {job} may be running this already: {done.stderr.strip()}")
    return bool(done.stdout.strip())


def _version(code: Mapping[str, Any]) -> str:
    commit = str(code.get("commit") or "no commit")[:10]
    return f"{commit} with changes {str(code.get('changes'))[:8]}" if code.get("dirty") else commit
