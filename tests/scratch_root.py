"""A throwaway copy of this machine's root: what commands change in it stays in memory, and goes with it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

MOUNTS = """
set -e
mount -t tmpfs tmpfs "$0"
mkdir "$0/changed" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/changed,workdir=$0/work" "$0/root"
for folder in dev proc sys; do mount --rbind "/$folder" "$0/root/$folder"; done
echo mounted
read line || true
"""


class NoScratchRoot(Exception):
    """It cannot be made here; the message says why."""


class ScratchRoot:
    """A root file system while in a `with`. Its mounts are seen by its own commands alone.

    place: an empty folder for it. needs: what commands there must see, which has to be on the same file system.
    Raises NoScratchRoot, without root's rights among others.
    """

    def __init__(self, place: Path, needs: Sequence[Path] = ()) -> None:
        self.place, self.needs = place, needs

    def __enter__(self) -> ScratchRoot:
        for path in self.needs:
            if path.stat().st_dev != Path("/").stat().st_dev:
                raise NoScratchRoot(f"{path} is on another file system than /")
        self.place.mkdir(parents=True, exist_ok=True)
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", MOUNTS, str(self.place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "mounted\n":
            raise NoScratchRoot(self._holder.communicate()[1].strip())
        return self

    def __exit__(self, *error: object) -> None:
        self._holder.communicate("\n")

    def run(
        self, *command: str, cwd: str = "/", env: dict[str, str] | None = None, user: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there, in an environment of `env` alone, to its end."""
        told = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", **(env or {})}
        return subprocess.run(
            [
                *("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"),
                *("chroot", f"--userspec={user}:{user}", "--groups=", str(self.place / "root")),
                *("env", "-i", f"--chdir={cwd}", *(f"{name}={value}" for name, value in told.items())),
                *command,
            ],
            capture_output=True,
            text=True,
        )
