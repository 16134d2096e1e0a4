"""Two ranks that take a run folder in several situations, for tests: what each got goes to a file as JSON.

python meeting_ranks.py RANK FOLDER
"""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path

import torch.distributed as dist

from iwin.errors import ConfigError
from iwin.train import meeting


def main() -> None:
    """Run as a rank."""
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    got: dict[str, list[str]] = {}

    def take(case: str, first: Path) -> None:
        try:
            with meeting.take_folder(first, rank) as taken:
                got[case] = [str(taken.path), str(taken.leads)]
                dist.barrier()
        except ConfigError as error:
            got[case] = ["refused", str(error)]

    take("new", folder / "new")
    (folder / "used").mkdir(exist_ok=True)
    lock = (folder / "used" / ".lock").open("w")
    if rank == 0:  # as another process that runs it would
        fcntl.flock(lock, fcntl.LOCK_EX)
    take("used", folder / "used")
    (folder / "file").touch()
    take("unwritable", folder / "file" / "run")
    if rank == 1:  # whose node has another file system
        meeting._is_there = lambda folder, within_s: False  # type: ignore[assignment]
    take("unseen", folder / "unseen")
    (folder / f"got-{rank}.json").write_text(json.dumps(got))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
