"""The writing of a small data set, and the ends that it may come to."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards_command import iwin

from iwin.data.folder import ImageFiles


def write(source: Path, target: Path, *options: object) -> int:
    return iwin("shards", "write", source, target, "--val-fraction", 0.3, "--samples-per-shard", 3, *options)


def tree(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def forked_run(run: Callable[[], object], prepare: Callable[[], object]) -> int:
    """Run `run` in a process group of its own; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            prepare()
            run()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_event(count: int, action: Callable[[], object]) -> None:
    """Make this process, and those it forks, do `action` before its `count`-th change to the disk or read image."""
    left = multiprocessing.RawValue("i", count)

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left.value -= 1
            if left.value == 0:
                action()
            return function(*arguments, **options)

        return call

    for owner, names in ((os, ["fsync", "write"]), (Path, ["replace", "unlink"]), (ImageFiles, ["read"])):
        for name in names:
            setattr(owner, name, watched(getattr(owner, name)))
