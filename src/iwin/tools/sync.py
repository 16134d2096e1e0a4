"""`iwin sync`: sends what runs have logged offline to Weights & Biases, from a machine with a network."""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from iwin.errors import DataError, near_names

PART = "wandb/offline-run-*/run-*.wandb"
LEVELS = 3  # a run may stand in the folder of a sweep, and that among others
LOCK = ".lock"  # as iwin.train.run_folder has it, which takes seconds to import
SYNCED = ".synced"  # W&B leaves a file of this ending beside what it has sent
REACH_S = 10.0
LAST_WORDS = 3  # lines of W&B's, where it fails


@dataclass(frozen=True)
class OfflineRun:
    """parts: what each start of the run has logged, in their order. running: a process may still add to the last."""

    folder: Path
    parts: tuple[Path, ...]
    running: bool

    @property
    def due(self) -> tuple[Path, ...]:
        """The parts that are to be sent, in their order."""
        ended = self.parts[:-1] if self.running else self.parts
        return tuple(part for part in ended if not is_synced(part))


def add_parser(subparsers: Any) -> None:
    """The subcommand `sync`."""
    parser = subparsers.add_parser(
        "sync",
        help="send what runs have logged offline to Weights & Biases",
        description="Find the runs that have logged offline (logger=wandb) and send them, the parts of a run that was "
        "stopped and went on in their order, under its one id. What was sent is passed over the next time, and so is "
        "what a running job still writes. Needs a network, and a key: wandb login.",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        metavar="RUNS",
        help="runs, sweeps, or folders that hold them (default: runs)",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> None:
    """Run `iwin sync`.

    DataError where there is nothing of the kind, without the package or a network, and where something was not sent.
    """
    runs = find_runs(arguments.folders)
    if importlib.util.find_spec("wandb") is None:
        raise DataError("iwin sync needs the package wandb: pip install 'iwin[wandb]' -c constraints.txt")
    due = [one for one in runs if one.due]
    parts = sum(len(one.due) for one in due)
    if due:
        check_network()
    failed = [one.folder.name for one in runs if not send(one)]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(runs)} runs could not be sent whole: {', '.join(failed)}. The same command goes on "
            "with what is missing"
        )
    print(f"{len(runs)} runs: {f'{parts} parts sent' if parts else 'there is nothing new to send'}.")


def find_runs(folders: Sequence[Path]) -> list[OfflineRun]:
    """The runs with parts that were logged offline in `folders`, each once. DataError where there are none."""
    parts: dict[Path, set[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            siblings = [child.name for child in folder.absolute().parent.glob("*/")]
            raise DataError(f"there is no folder {folder}; {near_names(folder.name, siblings)}")
        for level in range(LEVELS + 1):
            for part in folder.resolve().glob("*/" * level + PART):
                parts.setdefault(part.parents[2], set()).add(part)
    if not parts:
        raise DataError(
            f"nothing was logged offline in {', '.join(map(str, folders))}: looked for wandb/offline-run-*, in it and "
            f"up to {LEVELS} levels down. Runs with logger=wandb log offline unless you are logged in, or by "
            "logger.wandb.mode=offline"
        )
    # The folder of a part begins with the time of its start.
    return [
        OfflineRun(folder, tuple(sorted(found, key=lambda part: part.parent.name)), is_running(folder))
        for folder, found in sorted(parts.items())
    ]


def is_synced(part: Path) -> bool:
    """Whether W&B has sent it: the one thing to go by, as it ends with 0 also where nobody is logged in."""
    return part.with_name(part.name + SYNCED).exists()


def is_running(folder: Path) -> bool:
    """Whether a process holds the run."""
    lock = folder / LOCK
    if (folder / "result.json").exists() or not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def send(one: OfflineRun) -> bool:
    """Send the parts that are due, up to one that cannot be, and say what became of each; whether all are sent."""
    for number, part in enumerate(one.parts, start=1):
        head = f"{one.folder.name}  part {number} of {len(one.parts)}"
        if is_synced(part):
            print(f"{head}  was sent before")
        elif part not in one.due:
            print(f"{head}  is left, as it is still running")
        else:
            done = subprocess.run(
                command(part),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
            )
            if done.returncode != 0 or not is_synced(part):
                lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                print(f"{head}  could not be sent: {' / '.join(lines[-LAST_WORDS:])}", flush=True)
                return False
            print(f"{head}  sent", flush=True)
    return True


def command(part: Path) -> list[str]:
    """W&B's own command for it."""
    return [sys.executable, "-m", "wandb", "sync", "--id", run_id(part), str(part.parent)]


def run_id(part: Path) -> str:
    """The id that the run has in W&B: its folder's name when it began."""
    return part.stem.removeprefix("run-")


def server_url() -> str:
    """Where W&B's server is, as wandb is set up."""
    import wandb

    return str(wandb.setup().settings.base_url)


def check_network() -> None:
    """DataError where W&B's server, or the proxy on the way to it, cannot be reached: wandb would try for ever."""
    server = urlsplit(server_url())
    proxy = getproxies().get(server.scheme)
    way = urlsplit(proxy) if proxy and not proxy_bypass(server.hostname or "") else server
    port = way.port or {"https": 443}.get(way.scheme, 80)
    try:
        socket.create_connection((way.hostname or "", port), REACH_S).close()
    except OSError as error:
        through = "" if way is server else f" by the proxy {way.hostname}"
        raise DataError(
            f"{server.scheme}://{server.netloc} cannot be reached from here{through} ({error}): run iwin sync on a "
            "machine with a network that sees these folders. Nothing was sent or changed"
        ) from error
