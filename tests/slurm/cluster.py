"""A Slurm of this machine alone, from the packages of tests/slurm/install.sh: two slots, and jobs that give way."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
PATIENCE_S = 240.0  # an upper bound for machines under load; nothing waits for it to pass
LOOK_EVERY_S = 0.05
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge/socket
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=30
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 CoresPerSocket=2 State=UNKNOWN
PartitionName=graced Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=sudden Nodes={host} MaxTime=INFINITE PriorityTier=1 GraceTime=0
PartitionName=urgent Nodes={host} MaxTime=INFINITE PriorityTier=9 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    if os.geteuid() != 0:
        return "starting a Slurm needs root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    return f"there is no {', '.join(absent)}: tests/slurm/install.sh installs Slurm" if absent else None


class Cluster:
    """A Slurm that runs while in a `with`. Waiting is for what Slurm or a job says, with a deadline."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short, as sockets want it
        self.host = socket.gethostname().partition(".")[0]
        python = Path(sys.executable).parent
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "IWIN_"))},
            "SLURM_CONF": str(self.home / "slurm.conf"),
            "PATH": f"{python}:{_path()}",
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> Cluster:
        self.home.chmod(0o755)
        munge = self.home / "munge"
        for folder in (munge, self.home / "state", self.home / "spool"):
            folder.mkdir()
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self._run("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", *options)
        port, node_port = _free_ports(2)
        conf = CONF.format(home=self.home, host=self.host, port=port, node_port=node_port)
        (self.home / "slurm.conf").write_text(conf)
        self._run("slurmctld")
        self.start_node()
        return self

    def start_node(self) -> None:
        """The part of Slurm that starts jobs; returns once jobs may come."""
        self._run("slurmd")
        state = ("sinfo", "--noheader", "--partition=graced", "--format=%T")
        self.until(lambda: self._run(*state, check=False).strip() in ("idle", "mixed"))

    def __exit__(self, *error: object) -> None:
        self._run("scancel", "--user=root", check=False)
        self.until(lambda: not self._run("squeue", "-h", check=False).strip())
        for file in ("slurmctld.pid", "slurmd.pid", "munge/pid"):
            _end(self.home / file)
        shutil.rmtree(self.home)

    def sbatch(self, *args: str) -> str:
        """Submit from the checkout; returns the number of the job."""
        return self._run("sbatch", "--parsable", *args).strip()

    def salloc(self, *args: str) -> str:
        """A command in an allocation, as somebody gives it who is sitting there; returns what it has printed."""
        return self._run("salloc", *args)

    def signal(self, job: str, signum: signal.Signals) -> None:
        """To the steps of the job, as before the end of its time."""
        self._run("scancel", f"--signal={signum.name.removeprefix('SIG')}", job)

    def requeue(self, job: str) -> None:
        """As others would."""
        self._run("scontrol", "requeue", job)

    def cancel(self, job: str) -> None:
        """As its owner would."""
        self._run("scancel", job)

    def forbid_requeue(self, job: str) -> None:
        """As if it had been submitted with --no-requeue."""
        self._run("scontrol", "update", f"JobId={job}", "Requeue=0")

    def job(self, job: str) -> dict[str, str]:
        """What Slurm knows of it."""
        said = self._run("scontrol", "show", "job", "--oneliner", job)
        return dict(part.split("=", 1) for part in said.split() if "=" in part)

    def released(self, job: str, restarts: int) -> None:
        """Wait for the job to be requeued, for the so many-eth time, and let it start soon.

        Slurm would hold it for two minutes. At once is too early: the node does not take a job that it has ended in the
        same second.
        """
        self.until(lambda: self.job(job)["JobState"] == "PENDING")
        assert self.job(job)["Restarts"] == str(restarts)
        self._run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def ended(self, job: str) -> dict[str, str]:
        """What Slurm knows of it, once it is over."""
        self.until(lambda: self.job(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"))
        return self.job(job)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, self._run("scontrol", "show", "job", check=False)
            time.sleep(LOOK_EVERY_S)

    def processes(self, *, of_step: bool, job: str) -> list[int]:
        """The processes of a job: those that srun has started, or all others, with Slurm's own for it."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                environ = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            own = f"SLURM_CONF={self.home}/slurm.conf".encode() in environ and f"SLURM_JOB_ID={job}".encode() in environ
            in_step = any(one.startswith(b"SLURM_STEP_ID=") for one in environ)
            stepd = command.startswith(f"slurmstepd: [{job}.".encode())
            if (own and in_step == of_step) or (stepd and not of_step):
                found.append(int(folder.name))
        return found

    def kill(self, pids: list[int]) -> None:
        """SIGKILL; returns when they are gone."""
        watched = [os.pidfd_open(pid) for pid in pids]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for fd in watched:
            assert select.select([fd], [], [], PATIENCE_S)[0]
            os.close(fd)

    def lose_node(self, job: str) -> None:
        """Kill whatever of the job and of Slurm runs on the node, as a cut of its power would, and start it anew.

        Slurm takes a node that does not answer for SlurmdTimeout to be down; here it is told.
        """
        _end(self.home / "slurmd.pid", signal.SIGKILL)
        self.kill(self.processes(of_step=False, job=job) + self.processes(of_step=True, job=job))
        self._run("scontrol", "update", f"NodeName={self.host}", "State=DOWN", "Reason=lost")
        self.start_node()

    def _run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, cwd=CHECKOUT, env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _end(pid_file: Path, signum: signal.Signals = signal.SIGTERM) -> None:
    pid = int(pid_file.read_text())
    watched = os.pidfd_open(pid)
    os.kill(pid, signum)
    assert select.select([watched], [], [], PATIENCE_S)[0]
    os.close(watched)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
