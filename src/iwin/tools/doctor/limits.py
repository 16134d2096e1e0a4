"""What the system allows a job: shared memory, open files, processes, cores."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from iwin.tools.doctor.finding import Check, Finding, gigabytes, ok, warning, wrong
from iwin.tools.doctor.job import Job

SHARED_MEMORY = Path("/dev/shm")
GROUP = Path("/sys/fs/cgroup")  # of this process, as containers see it
FILES_AT_REST = 300  # of a process that has imported torch and Lightning and opened its logs
FILES_A_BATCH = 3  # tensors in a batch: each travels from its worker as a descriptor of shared memory
FILES_A_WORKER = 8  # pipes, queues and the process itself
FILES_OF_SHARDS = 256  # that a data set keeps open
TASKS_A_RANK = 64  # threads of torch, of its collectives and of the writers
TASKS_A_WORKER = 4


def checks(job: Job) -> list[Check]:
    return [
        Check("shared memory", lambda: shared_memory(job)),
        Check("open files", lambda: open_files(job)),
        Check("processes", lambda: processes(job)),
        Check("cores", lambda: cores(job)),
    ]


def shared_memory(job: Job) -> Finding:
    """Room for every batch that workers keep ready, which wait there for their rank."""
    if job.workers == 0:
        return ok("none needed: data.num_workers=0")
    kept = job.prefetch + 1  # and the one that is being made
    need = job.ranks * job.workers * kept * (job.train_batch + job.eval_batch)
    if not SHARED_MEMORY.is_dir():
        return wrong(f"there is no {SHARED_MEMORY}, and data workers hand over batches there", "mount a tmpfs there")
    free = shutil.disk_usage(SHARED_MEMORY).free
    said = (
        f"{gigabytes(free)} free in {SHARED_MEMORY}; {gigabytes(need)} needed: {job.ranks} ranks x {job.workers} "
        f"workers x {kept} batches of {gigabytes(job.train_batch)} and {gigabytes(job.eval_batch)}"
    )
    advice = (
        f"give it {gigabytes(2 * need)} (docker run --shm-size, or mount -o remount,size=), or lower data.num_workers, "
        "data.prefetch or data.eval_batch_size"
    )
    if free < need:
        return wrong(said, advice)
    return warning(said, advice) if free < 1.5 * need else ok(said)


def open_files(job: Job) -> Finding:
    """The limit of open files for each process, against what a rank has open."""
    batches = 2 * job.workers * (job.prefetch + 1)  # of training and of evaluation
    need = FILES_AT_REST + FILES_OF_SHARDS + batches * FILES_A_BATCH + 2 * job.workers * FILES_A_WORKER
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{_limit(soft)} allowed to a process (at most {_limit(hard)}), about {need} needed"
    if soft == resource.RLIM_INFINITY or soft >= need:
        return ok(said)
    raised = hard == resource.RLIM_INFINITY or hard >= need
    advice = (
        f"ulimit -n {need}" if raised else "raise nofile in /etc/security/limits.conf, or docker run --ulimit nofile="
    )
    return wrong(said, f"{advice}; or lower data.num_workers")


def processes(job: Job) -> Finding:
    """The limits of processes and threads, of the user and of the control group."""
    need = job.ranks * (TASKS_A_RANK + 2 * job.workers * TASKS_A_WORKER)
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = {"ulimit -u": None if soft == resource.RLIM_INFINITY else soft}
    told = GROUP / "pids.max"
    limits["pids.max of the control group"] = int(text) if (text := _read(told)).isdigit() else None
    known = {name: limit for name, limit in limits.items() if limit is not None}
    for name, limit in known.items():
        if limit < need:
            return wrong(f"{name} is {limit}, about {need} needed", f"raise {name}, or lower data.num_workers")
    return ok(f"about {need} needed; {', '.join(f'{name} {limit}' for name, limit in known.items()) or 'no limit'}")


def cores(job: Job) -> Finding:
    """Cores that this process may use, against those that keep busy: each rank and its training workers."""
    allowed = len(os.sched_getaffinity(0))
    share = cpu_share()
    usable = allowed if share is None else min(allowed, share)
    need = job.ranks * (1 + job.workers)
    said = f"{usable:g} usable of {os.cpu_count()}; {job.ranks} ranks with {job.workers} workers each keep {need} busy"
    if usable < need:
        fit = max(0, int(usable / job.ranks) - 1)
        return warning(said, f"data.num_workers={fit} fits; or ask for more (docker --cpus, sbatch --cpus-per-task)")
    return ok(said)


def cpu_share() -> float | None:
    """Cores that the control group pays for; None for no limit."""
    quota, _, period = _read(GROUP / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.strip().isdigit() else None


def _read(file: Path) -> str:
    return file.read_text().strip() if file.is_file() else ""


def _limit(value: int) -> str:
    return "any number" if value == resource.RLIM_INFINITY else str(value)
