"""Two ranks that take a run folder in several situations, for tests: what each got goes to a file as JSON.

python meeting_ranks.py RANK FOLDER
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from iwin.errors import ConfigError, DataError, UserError
from iwin.train import meeting
from iwin.train.run_folder import RunFolder


def main() -> None:
    """Run as a rank."""
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    got: dict[str, list[str]] = {}

    def take(case: str, how: Callable[[Callable[[], object]], RunFolder | None]) -> None:
        try:
            taken = meeting.take_folder(how)
            if taken is None:
                got[case] = ["nothing", ""]
                return
            with taken:
                got[case] = [str(taken.path), str(taken.leads)]
                dist.barrier()
        except ConfigError as error:
            got[case] = ["refused", str(error)]

    def of(name: str) -> Callable[[Callable[[], object]], RunFolder]:
        return lambda meanwhile: RunFolder.take(folder / name, rank, meanwhile=meanwhile)

    def waits(meanwhile: Callable[[], object]) -> RunFolder:
        for _ in range(3):
            meanwhile()
        return of("free")(meanwhile)

    def make() -> None:
        if rank == 1:
            raise DataError("no data here")

    take("new", of("new"))
    (folder / "used").mkdir(exist_ok=True)
    lock = (folder / "used" / ".lock").open("w")
    if rank == 0:  # as another process that runs it would
        fcntl.flock(lock, fcntl.LOCK_EX)
    take("used", of("used"))
    (folder / "file").touch()
    take("unwritable", of("file/run"))
    take("finished", lambda meanwhile: None)
    heard, told = [], meeting._told
    meeting._told = lambda: heard.append(told()) or heard[-1]  # type: ignore[func-returns-value]
    take("waited for", waits)
    meeting._told = told
    got["heard"] = [answer for answer, _ in heard]
    if rank == 1:  # whose node has another file system
        meeting._is_there = lambda folder, within_s: False  # type: ignore[assignment]
    take("unseen", of("unseen"))
    try:
        meeting.all_make(make)
    except UserError as error:
        got["made"] = ["refused", str(error)]
    (folder / f"got-{rank}.json").write_text(json.dumps(got))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
