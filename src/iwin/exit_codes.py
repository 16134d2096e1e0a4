"""The exit codes of the programs: what a script or a scheduler may do next.

    0   done
    1   a defect of ours, with its traceback; or Ctrl-C pressed twice
    2   the user's input cannot be used; the message says what to do, and the same command would fail again
    69  another process of the run has hung or ended; the same command goes on from the last checkpoint
    71  the system killed a process that reads data; the same command goes on from the last checkpoint
    75  stopped by a signal, with everything saved; the same command goes on as if nothing had happened

69, 71 and 75 are the codes that sysexits.h gives to a service that is unavailable, to an error of the system,
and to a failure that is temporary. A process that a signal killed outright has 128 and the signal's number in
a shell.
"""

from __future__ import annotations

DONE = 0
DEFECT = 1
USER_ERROR = 2
RANK_LOST = 69
WORKER_LOST = 71
RESUME = 75
