"""Where a run goes on, told to all of its processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import lightning
import torch

from iwin.errors import ConfigError, UserError, WeightsError
from iwin.runtime import code_version
from iwin.train.recovery import Recovery, recover
from iwin.train.run_folder import CHECKPOINT_VARIABLE, RunFolder
from iwin.train.slurm import changed_code, check_progress


def _recover(folder: RunFolder) -> Recovery:
    """`recover`; what a Slurm job has to know of its earlier starts besides, which may end it (ConfigError)."""
    recovery = recover(folder.checkpoints)
    check_progress(folder.path, None if recovery.checkpoint is None else recovery.checkpoint.name)
    changed = changed_code(folder.path, code_version())
    return recovery if changed is None else replace(recovery, notes=(*recovery.notes, changed))


def agree_on_checkpoint(trainer: lightning.Trainer, folder: RunFolder) -> Recovery:
    """The checkpoint that all ranks go on from: rank 0 looks and decides, once, and the others are told.

    Processes that rank 0 starts later are told by the environment. Where a launcher has started them all, the process
    group is set up for it, as Lightning would do a moment later.

    Raises, on every rank: WeightsError as `recover`; ConfigError where a rank has taken another run folder.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    started_together = environment is not None and environment.creates_processes_externally
    if not folder.leads and CHECKPOINT_VARIABLE in os.environ and not torch.distributed.is_initialized():
        told = os.environ[CHECKPOINT_VARIABLE]
        return Recovery(Path(told) if told else None)
    if not torch.distributed.is_initialized():
        if not started_together:
            recovery = _recover(folder)
            os.environ[CHECKPOINT_VARIABLE] = str(recovery.checkpoint or "")
            return recovery
        trainer.strategy.setup_environment()
    decision: tuple[Path, Recovery, str] = (folder.path, Recovery(None), "")
    if trainer.is_global_zero:
        try:
            decision = (folder.path, _recover(folder), "")
        except UserError as error:
            decision = (folder.path, Recovery(None), str(error))
    theirs, recovery, refusal = trainer.strategy.broadcast(decision)
    if refusal:
        raise WeightsError(refusal)
    if theirs != folder.path:
        raise ConfigError(
            f"rank {trainer.global_rank} has taken the run folder {folder.path}, and rank 0 {theirs}: give all ranks "
            "the same paths.runs_dir, on a file system that they share, and start them together"
        )
    return recovery
