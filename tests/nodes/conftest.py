"""Two hosts for the tests: network namespaces that a pair of virtual interfaces connects."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence

import pytest
from hosts import DEVICE, Host


@pytest.fixture
def hosts() -> Iterator[Sequence[Host]]:
    """Two hosts that reach each other and nothing else; skips where none can be made."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces need the programs ip (iproute2) and unshare (util-linux)")
    two = [Host(f"iwin-{os.getpid()}-{number}", f"10.77.0.{number + 1}") for number in range(2)]
    try:
        for host in two:
            _ip("netns", "add", host.name)
        _ip("-n", two[0].name, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", two[1].name)
        for host in two:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", DEVICE)
            for device in ("lo", DEVICE):
                _ip("-n", host.name, "link", "set", device, "up")
        yield two
    finally:
        for host in two:
            listed = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True)
            for pid in listed.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no network namespaces here, which need root: ip {' '.join(words)}: {done.stderr.strip()}")
