"""Requeues a Slurm job whose run is to go on: the last line of its batch script, told how srun has ended.

    srun python train.py "$@"
    python src/iwin/train/requeue.py $?

The batch script is one process for each job, it outlives whatever ends the run, and when it gets here everything
is saved. So a job is requeued once, and never while it saves. Slurm is asked first: a job that others have requeued
has one restart more than this script was told of, one that was cancelled is not running any more. A job that was asked
to give way (preemption with a GraceTime) is, and Slurm requeues it only if it is still there at the end of that time.

Run as a file, with nothing but Python's own library: to import torch may take longer than Slurm waits.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ENDED = "ended.json"  # in the folder of a cell whose job is over and whose run is not
# iwin.exit_codes: a lost rank, a lost data worker, stopped with everything saved.
GOES_ON = (69, 71, 75)
KILLED = 128  # and the signal, as shells and srun say it
BY_OTHERS = "others have requeued it"
SAID_LINES = 50
TRIES, PAUSE_S = 6, 10.0  # to reach Slurm's controller, which may be starting


class SlurmError(RuntimeError):
    """Slurm did not do what it was asked to, and says why."""


def goes_on(code: int) -> bool:
    """Whether a run that ended with `code` goes on with the same command."""
    return code in GOES_ON or killed_by(code) is not None


def killed_by(code: int) -> str | None:
    """The signal that an exit code tells of: Python's, which is negative, or a shell's and srun's."""
    try:
        return signal.Signals(-code if code < 0 else code - KILLED).name
    except ValueError:
        return None


def reason_of(code: int, said: Iterable[str]) -> str:
    """Why a run has ended with `code`, in words: the last error among the lines that it `said`."""
    lines = [line.rstrip("\n") for line in said if line.strip()][-SAID_LINES:]
    if killed_by(code) is not None:
        return f"killed by {killed_by(code)}"
    errors = [line for line in lines if line.startswith("error: ")]
    last = errors[-1].removeprefix("error: ") if errors else next(iter(lines[-1:]), "")
    return last or f"exit code {code}"


def own_record(environ: Mapping[str, str] = os.environ) -> tuple[str, dict[str, str]]:
    """This process's job as it is requeued, and what Slurm knows of it. SlurmError where Slurm cannot be asked.

    12; in an array 12_3, as its last task has the number of the whole array as its own. sbatch hands on the variables
    of the array task that it is called in, so the record has to say that it is this job's.
    """
    number = environ["SLURM_JOB_ID"]
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        try:
            record = _record(f"{array}_{task}")
        except SlurmError as error:
            if not any(none in str(error) for none in ("Invalid job id", "not found")):
                raise
            record = {}  # of an array that is long over
        if record.get("JobId") == number:
            return f"{array}_{task}", record
    return number, _record(number)


def _record(job: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in scontrol("show", "job", "--oneliner", job).split() if "=" in part)


def requeue(job: str, facts: Mapping[str, str], restarts: int) -> str | None:
    """Requeue a job that runs, and was restarted so often; None, or why not. SlurmError where Slurm refuses.

    facts: what Slurm knows of the job.
    """
    if int(facts["Restarts"]) > restarts:  # fewer: sbatch was called in a job that was restarted, and handed that on
        return BY_OTHERS
    limit = seconds_of(facts["TimeLimit"])
    if facts["JobState"] != "RUNNING" and (limit is None or (seconds_of(facts["RunTime"]) or 0) < limit):
        return f"it was cancelled ({facts['JobState']})"
    if facts["Requeue"] == "0":
        return "it must not be (sbatch --no-requeue)"
    scontrol("requeue", job)
    return None


def seconds_of(time_text: str) -> int | None:
    """Slurm's 1-02:03:04 in seconds; None for UNLIMITED and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", time_text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def scontrol(*args: str) -> str:
    """What it prints. SlurmError where it refuses; where it reaches nobody, after some more tries."""
    for left in reversed(range(TRIES)):
        done = subprocess.run(["scontrol", *args], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        if not left or "nable to contact" not in done.stderr:
            break
        time.sleep(PAUSE_S)
    raise SlurmError(f"scontrol {' '.join(args)}: {(done.stderr + done.stdout).strip() or done.returncode}")


def note_end(cell: Path, state: str, reason: str, code: int) -> None:
    """Write into the folder of a cell how its job has ended."""
    cell.mkdir(parents=True, exist_ok=True)
    new = cell / f"{ENDED}.new"
    new.write_text(json.dumps({"state": state, "reason": reason, "exit_code": code}) + "\n")
    new.replace(cell / ENDED)


def note_cell(cells: Mapping[str, Any], state: str, told: str, code: int) -> None:
    """Write into the folder of this job's cell how it has ended. cells: the list that submitting writes."""
    folders = cells["folders"]
    log, number = os.environ["SLURM_JOB_ID"], 0
    if len(folders) > 1:  # an array; of a single job such variables would be those of where it was submitted
        number = int(os.environ["SLURM_ARRAY_TASK_ID"])
        log = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{number}"
    said = Path(cells["logs"]) / f"{log}_0_log.err"
    with said.open(errors="replace") if said.is_file() else open(os.devnull) as lines:
        reason = reason_of(code, lines) + told
    note_end(Path(folders[number]), state, reason, code)


def main() -> int:
    """The exit code is that of srun, which Slurm then has as the job's."""
    parser = argparse.ArgumentParser(description="Requeue the Slurm job of this script if its run is to go on.")
    parser.add_argument("code", type=int, help="how srun has ended: $?")
    parser.add_argument("--cells", type=Path, help="a list of the folders of an array's cells, as submitting writes it")
    arguments = parser.parse_args()
    code, job = arguments.code, os.environ["SLURM_JOB_ID"]
    if code == 0:
        return code
    told, state = "", "failed"
    if goes_on(code):
        try:
            job, facts = own_record()
            why_not = requeue(job, facts, int(os.environ.get("SLURM_RESTART_COUNT") or 0))
        except SlurmError as error:
            why_not = str(error)
        if why_not is None:
            print(f"Slurm job {job} is requeued, and its run goes on when it starts again.", flush=True)
            return code
        told, state = f"; Slurm job {job} is not requeued: {why_not}", "stopped"
        print(told.removeprefix("; "), file=sys.stderr, flush=True)
        if why_not == BY_OTHERS:
            return code
    if arguments.cells:
        note_cell(json.loads(arguments.cells.read_text()), state, told, code)
    return code


if __name__ == "__main__":
    sys.exit(main())
