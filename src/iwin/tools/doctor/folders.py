"""Where a job writes: whether it may, how fast, how much, and whether locks and times hold there."""

from __future__ import annotations

import fcntl
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iwin.tools.doctor.finding import Check, Finding, gigabytes, ok, warning, wrong
from iwin.tools.doctor.job import Job

WRITTEN = 64_000_000  # bytes, to measure the speed
SYNCS = 9
SLOW_BYTES_S = 20e6
SLOW_SYNC_S = 0.1
CHECKPOINTS = 4  # two of the newest, the best, and one that is being written
LEAST_TEMPORARY = 500_000_000  # bytes: what compiling a model leaves there
LONGEST_TEMPORARY = 70  # letters: a socket in it may have 108, and torch's names take 38
SKEW_S = 5.0
ASK_S = 30

TRY_LOCK = """
import fcntl, sys
try:
    fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(3)
"""


def checks(job: Job) -> list[Check]:
    def in_runs(look: Callable[[Path], Finding]) -> Callable[[], Finding]:
        def call() -> Finding:
            try:
                with scratch(job.runs) as folder:
                    return look(folder)
            except OSError as error:
                return wrong(
                    f"cannot write in {existing(job.runs)}: {error.strerror or error}",
                    "set paths.runs_dir (or IWIN_RUNS, or --runs here) to a folder that you may write to",
                )

        return call

    return [
        Check("output space", in_runs(lambda folder: space(folder, job.checkpoint))),
        Check("output speed", in_runs(lambda folder: speed(folder, job.checkpoint))),
        Check("locks", in_runs(locks)),
        Check("clock", in_runs(clock)),
        Check("TMPDIR", temporary),
    ]


def existing(folder: Path) -> Path:
    """`folder`, or the nearest one above that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


@contextmanager
def scratch(runs: Path) -> Iterator[Path]:
    """A folder for trials where the runs will be, which goes again."""
    with tempfile.TemporaryDirectory(prefix=".iwin-doctor-", dir=existing(runs)) as folder:
        yield Path(folder)


def space(folder: Path, checkpoint: int) -> Finding:
    """Room for the checkpoints of a run. checkpoint: bytes of one."""
    free, need = shutil.disk_usage(folder).free, CHECKPOINTS * checkpoint
    said = (
        f"{gigabytes(free)} free in {folder.parent}; {gigabytes(need)} needed: {CHECKPOINTS} checkpoints of about "
        f"{gigabytes(checkpoint)}"
    )
    advice = "make room, or set paths.runs_dir (or IWIN_RUNS) to another disk; quotas are not seen here"
    if free < need:
        return wrong(said, advice)
    return warning(said, advice) if free < 2 * need else ok(said)


def speed(folder: Path, checkpoint: int) -> Finding:
    """How fast bytes come to rest on the disk, and how long the smallest write takes to."""
    block = os.urandom(1_000_000)
    started = time.perf_counter()
    with (folder / "speed").open("wb") as file:
        for _ in range(WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    rate = WRITTEN / (time.perf_counter() - started)
    waits = []
    with (folder / "sync").open("wb") as file:
        for _ in range(SYNCS):
            started = time.perf_counter()
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
            waits.append(time.perf_counter() - started)
    return judge_speed(rate, statistics.median(waits), checkpoint)


def judge_speed(rate: float, sync: float, checkpoint: int) -> Finding:
    """rate: bytes a second. sync: seconds. checkpoint: bytes."""
    said = f"{rate / 1e6:.0f} MB/s, fsync {1000 * sync:.1f} ms; a checkpoint takes {checkpoint / rate + 2 * sync:.1f} s"
    if rate < SLOW_BYTES_S or sync > SLOW_SYNC_S:
        return warning(said, "save less often, or set paths.runs_dir to a faster disk: what is not saved is lost")
    return ok(said)


def locks(folder: Path) -> Finding:
    """Whether a lock that this process holds keeps another one out: so two jobs never take one run folder."""
    file = folder / "lock"
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return wrong(
                f"locks do not work: {error.strerror}", "mount it with locks, or choose another paths.runs_dir"
            )
        command = [sys.executable, "-c", TRY_LOCK, str(file)]
        code = subprocess.run(command, capture_output=True, timeout=ASK_S, check=False).returncode
    if code != 3:
        return wrong(
            f"a lock does not keep another process out (exit code {code})",
            "mount it with locks (Lustre: -o flock), or set paths.runs_dir: two jobs could write one folder",
        )
    return ok("flock keeps other processes of this machine out")


def clock(folder: Path) -> Finding:
    """The time here against that of the disk, which for network folders is another machine's."""
    file = folder / "clock"
    file.touch()
    return judge_clock(time.time() - file.stat().st_mtime)


def judge_clock(skew: float) -> Finding:
    """skew: seconds that this machine is ahead of the folder's."""
    if abs(skew) > SKEW_S:
        return warning(
            f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the output folder's", "run ntp on both"
        )
    return ok(f"agrees with the output folder's within {SKEW_S:g} s")


def temporary() -> Finding:
    """The folder for temporary files: sockets of data workers, compiled code. Checkpoints do not pass through it."""
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    said = f"{folder}, {gigabytes(free)} free"
    if len(str(folder)) > LONGEST_TEMPORARY:
        return wrong(f"{said}: too long a name for the sockets of data workers", "set TMPDIR to a shorter one, as /tmp")
    if free < LEAST_TEMPORARY:
        return warning(said, "make room, or set TMPDIR to another disk: compiling a model needs some")
    return ok(said)
