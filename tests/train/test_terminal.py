"""Whether a terminal is behind a process, asked in terminals and out of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ASK = "import sys, runpy; print(runpy.run_path(sys.argv[1])['in_terminal']())"
FILE = Path(__file__).parents[2] / "src/iwin/train/terminal.py"


def answer(*, in_terminal: bool, leaves_it: bool) -> str:
    """What a process says that was started by one with a terminal of its own, or by one without any."""
    read, write = os.pipe()
    pid = os.forkpty()[0] if in_terminal else os.fork()
    if pid == 0:
        if not in_terminal:
            os.setsid()
        done = subprocess.run([sys.executable, "-c", ASK, str(FILE)], stdout=write, start_new_session=leaves_it)
        os._exit(done.returncode)
    os.close(write)
    with open(read) as told:
        said = told.read().strip()
    assert os.waitpid(pid, 0)[1] == 0
    return said


def test_a_process_of_a_terminal_knows_it_also_where_it_has_left_it() -> None:
    assert answer(in_terminal=True, leaves_it=False) == "True"
    assert answer(in_terminal=True, leaves_it=True) == "True"


def test_beyond_the_daemon_of_a_step_nobody_is_looked_for(tmp_path: Path) -> None:
    """As a task is: its terminal, if any, would be that of somebody who has started the daemon by hand."""
    daemon = tmp_path / "slurmstepd"
    daemon.symlink_to(sys.executable)
    start = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-c', {ASK!r}, {str(FILE)!r}])"
    read, write = os.pipe()
    pid = os.forkpty()[0]
    if pid == 0:
        subprocess.run([daemon, "-c", start], stdout=write, start_new_session=True)
        os._exit(0)
    os.close(write)
    with open(read) as told:
        assert told.read().strip() == "False"
    os.waitpid(pid, 0)
