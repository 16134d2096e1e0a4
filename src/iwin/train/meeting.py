"""Ranks that a launcher has started (torchrun, srun) meet before anything is decided: rank 0 takes the run folder.

Each would else look for itself, at a moment of its own: a folder that has just been finished, or that another run
holds, would part them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import lightning
import torch.distributed as dist

from iwin.errors import ConfigError, UserError
from iwin.exit_codes import RANK_LOST
from iwin.train.endings import Ended, ending_of, say
from iwin.train.run_folder import RUN_FOLDER_VARIABLE, RunFolder

SEEN_S = 60.0  # for a folder that was just made to show on other nodes: as long as NFS remembers what is not there
LOOK_EVERY_S = 0.5
Made = TypeVar("Made")
WAITING, TAKEN, NOTHING, REFUSED = "waiting", "taken", "nothing", "refused"  # what rank 0 tells the others


def bring_together(trainer: lightning.Trainer) -> None:
    """Set up the process group if a launcher has started the ranks, as Lightning would do later.

    Alone, and where rank 0 starts the others and tells them by the environment, there is nothing to do.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    launched = environment is not None and environment.creates_processes_externally
    if launched and trainer.world_size > 1 and RUN_FOLDER_VARIABLE not in os.environ and not dist.is_initialized():
        trainer.strategy.setup_environment()


@contextmanager
def patiently(trainer: lightning.Trainer, setup_s: float) -> Iterator[None]:
    """Around what the ranks do before the heartbeat is on duty: where one does not come, or is lost, the others end
    with exit code 69, and a message in place of a traceback.

    setup_s: seconds that torch waits for the others. Raises Ended.
    """
    try:
        yield
    except Exception as error:
        ending = ending_of(error, trainer.world_size)
        if ending is None or ending[0] != RANK_LOST:
            raise
        why = str(error).strip().splitlines()[0].rstrip(".")
        joined = re.search(r"(\d+)/\d+ clients joined", why)  # rank 0 alone is told
        came = f"{joined[1] if joined else 'not all'} of the {trainer.world_size} ranks of this run have come together"
        say(
            f"{came} within {setup_s:g} s (callbacks.heartbeat.setup_s), or one has ended ({why}): the logs of the "
            "others say why. The same command goes on from the last checkpoint.",
            trainer.global_rank,
        )
        raise Ended(RANK_LOST) from error


def all_make(make: Callable[[], Made]) -> Made:
    """What `make` makes on this rank. Where one rank cannot, as its node does not see the data, UserError on all."""
    refusal: UserError | None = None
    try:
        made = make()
    except UserError as error:
        refusal = error
    refusals: list[str | None] = [None if refusal is None else str(refusal)]
    if dist.is_initialized():
        refusals *= dist.get_world_size()
        dist.all_gather_object(refusals, refusals[0])
    if refusal is not None:
        raise refusal
    for rank, theirs in enumerate(refusals):
        if theirs is not None:
            raise ConfigError(f"rank {rank}: {theirs}")
    return made


def take_folder(take: Callable[[Callable[[], object]], RunFolder | None]) -> RunFolder | None:
    """What rank 0 gets from `take`, on all ranks: the folder of the run, or None where there is nothing to do.

    take: is given what it shall call every moment while it waits for something, so that the other ranks do not take
    rank 0 to be lost.

    Raises, on every rank: ConfigError where rank 0 can take none, or another rank does not see the one taken.
    """
    if not dist.is_initialized():
        return take(lambda: None)
    taken: RunFolder | None = None
    if dist.get_rank() == 0:
        try:
            taken = take(lambda: _tell(WAITING))
            told = (TAKEN, str(taken.path)) if taken else (NOTHING, "")
        except UserError as error:
            told = (REFUSED, str(error))
        _tell(*told)
    else:
        while (told := _told())[0] == WAITING:
            pass
    answer, text = told
    if answer == REFUSED:
        raise ConfigError(text)
    if answer == NOTHING:
        return None
    folder = taken or RunFolder(Path(text), None)
    seen: list[bool | None] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, _is_there(folder.path, SEEN_S))
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        with folder:  # which lets go of it
            raise ConfigError(
                f"rank {blind} does not see the run folder {text} of rank 0: give all ranks the same paths.runs_dir "
                "(or IWIN_RUNS), on a file system that the nodes share"
            )
    return folder


def _tell(answer: str, text: str = "") -> None:
    dist.broadcast_object_list([answer, text], src=0)


def _told() -> tuple[str, str]:
    told = ["", ""]
    dist.broadcast_object_list(told, src=0)
    return told[0], told[1]


def _is_there(folder: Path, within_s: float) -> bool:
    """Whether `folder` is there, or comes to be within so many seconds."""
    deadline = time.monotonic() + within_s
    while not folder.is_dir():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY_S)
    return True
