"""Ranks that a launcher has started (torchrun, srun) meet before anything is decided: rank 0 takes the run folder.

Each would else look for itself, at a moment of its own: a folder that has just been finished, or that another run
holds, would part them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import lightning
import torch.distributed as dist

from iwin.errors import ConfigError, UserError
from iwin.train.run_folder import RUN_FOLDER_VARIABLE, RunFolder

SEEN_S = 60.0  # for a folder that was just made to show on other nodes: as long as NFS remembers what is not there
LOOK_EVERY_S = 0.5


def bring_together(trainer: lightning.Trainer) -> None:
    """Set up the process group if a launcher has started the ranks, as Lightning would do later.

    Alone, and where rank 0 starts the others and tells them by the environment, there is nothing to do.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    launched = environment is not None and environment.creates_processes_externally
    if launched and trainer.world_size > 1 and RUN_FOLDER_VARIABLE not in os.environ and not dist.is_initialized():
        trainer.strategy.setup_environment()


def take_folder(first: Path, rank: int) -> RunFolder:
    """The folder of the run whose first one would be `first` (see RunFolder.take), the same on all ranks.

    Raises, on every rank: ConfigError where rank 0 can take none, or another rank does not see the one taken.
    """
    if not dist.is_initialized():
        return RunFolder.take(first, rank)
    taken: RunFolder | None = None
    told = ["", ""]
    if rank == 0:
        try:
            taken = RunFolder.take(first, rank)
            told = [str(taken.path), ""]
        except UserError as error:
            told = ["", str(error)]
    dist.broadcast_object_list(told, src=0)
    place, refusal = told
    if refusal:
        raise ConfigError(refusal)
    folder = taken or RunFolder(Path(place), None)
    seen: list[bool | None] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, _is_there(folder.path, SEEN_S))
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        with folder:  # which lets go of it
            raise ConfigError(
                f"rank {blind} does not see the run folder {place} of rank 0: give all ranks the same paths.runs_dir "
                "(or IWIN_RUNS), on a file system that the nodes share"
            )
    return folder


def _is_there(folder: Path, within_s: float) -> bool:
    """Whether `folder` is there, or comes to be within so many seconds."""
    deadline = time.monotonic() + within_s
    while not folder.is_dir():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY_S)
    return True
