"""Whether a person's terminal is behind this process."""

from __future__ import annotations

import os
from pathlib import Path

STEP_DAEMON = "slurmstepd"  # what a job step descends from: beyond it is Slurm


def in_terminal() -> bool:
    """Whether this process or one that it descends from, up to Slurm's own, is controlled by a terminal.

    The whole line, as a program may have left the terminal (setsid) while the shell that started it has not. Linux
    alone knows; elsewhere False.
    """
    pid = os.getpid()
    while pid > 1:
        try:
            name, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rsplit(")", 1)
        except OSError:  # another's process, which some systems hide: no shell of this user is beyond it
            return False
        if name == STEP_DAEMON:
            return False
        _, parent, _, _, terminal, *_ = rest.split()
        if int(terminal):
            return True
        pid = int(parent)
    return False
