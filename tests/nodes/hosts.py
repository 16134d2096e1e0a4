"""A host of the tests: a network namespace, in which commands are started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

DEVICE = "node0"  # of each host, to the other one
CHECKOUT = Path(__file__).parents[2]


class Host:
    """One of them. address: under which the others reach it."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def start(self, *command: str, log: Path, reads_only: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command there, with what it prints in `log`; it cannot write below `reads_only`."""
        around: list[str] = ["ip", "netns", "exec", self.name]
        if reads_only is not None:
            mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
            around += ["unshare", "--mount", "sh", "-c", mount, str(reads_only)]
        return subprocess.Popen(
            [*around, *command],
            cwd=CHECKOUT,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": DEVICE},
        )
