"""Whether ranks find each other: the machine's own name, and a collective of two ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import torch

from iwin.tools.doctor.finding import Check, Finding, ok, warning, wrong
from iwin.tools.doctor.job import Job

RANKS = 2
TIMEOUT_S = 60.0
ANSWER = "the sum is right"

# In processes of their own: what hangs can be ended, and what it leaves behind goes with it.
RANK = f"""
import datetime, sys
import torch
import torch.distributed as dist
backend, address, rank, timeout = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
device = f"cuda:{{rank}}" if backend == "nccl" else "cpu"
if backend == "nccl":
    torch.cuda.set_device(rank)
wait = datetime.timedelta(seconds=timeout)
dist.init_process_group(backend, init_method=address, rank=rank, world_size={RANKS}, timeout=wait)
total = torch.full((1000,), rank + 1.0, device=device)
dist.all_reduce(total)
if total.eq({RANKS * (RANKS + 1) / 2}).all():
    print("{ANSWER}")
dist.destroy_process_group()
"""


def checks(job: Job, timeout_s: float = TIMEOUT_S) -> list[Check]:
    return [
        Check("host name", lambda: host_name(job.ranks)),
        Check("collective", lambda: collectives(timeout_s)),
    ]


def host_name(ranks: int) -> Finding:
    """The machine's name must lead to the machine: gloo listens where it leads."""
    name = socket.gethostname()
    advice = f"write '127.0.1.1 {name}' into /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    judge = wrong if ranks > 1 else warning
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return judge(f"{name} cannot be resolved: {error.strerror or error}", advice)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not any(is_here(family, address) for family, _, _, _, address in found):
        return judge(f"{name} leads to {', '.join(addresses)}, which is not this machine", advice)
    return ok(f"{name} leads here ({', '.join(addresses)})")


def is_here(family: int, address: Any) -> bool:
    """Whether the address belongs to this machine: then a socket can be bound to it."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind((address[0], 0, *address[2:]))
    except OSError:
        return False
    return True


def collectives(timeout_s: float) -> list[Finding]:
    """A sum over two ranks with gloo, and with NCCL where there are two GPUs."""
    backends = ["gloo", "nccl"] if torch.cuda.device_count() >= RANKS else ["gloo"]
    return [collective(backend, timeout_s) for backend in backends]


def collective(backend: str, timeout_s: float) -> Finding:
    """One sum, within `timeout_s` seconds; whatever is still running then is ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, "-c", RANK, backend, address]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*words, str(rank), str(timeout_s)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(RANKS)
    ]
    advice = f"{backend.upper()}_SOCKET_IFNAME chooses the network interface; a firewall may stand between"
    try:
        for rank, process in enumerate(ranks):
            said, complaint = process.communicate(timeout=timeout_s)
            if ANSWER not in said:
                lines = complaint.strip().splitlines() or [f"exit code {process.returncode}, without a word"]
                return wrong(f"{backend}: rank {rank} failed: {lines[-1]}", advice)
    except subprocess.TimeoutExpired:
        return wrong(f"{backend}: no answer within {timeout_s:g} s", advice)
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    return ok(f"{backend}: {RANKS} ranks add up")
