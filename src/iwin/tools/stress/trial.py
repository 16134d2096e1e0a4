"""Undisturbed once, disturbed many times, and compared."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from iwin.errors import whole
from iwin.tools.stress.starts import Ending, StressError, start, wait_until_gone, warm
from iwin.train.callbacks.witness import Account, read_account

KILLED = -9
UPDATES_PER_EPOCH = 8
WEIGHTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")


class Result(NamedTuple):
    """What a run came to. weights: sha256 over all tensors of the weights, their average, and the optimizer."""

    weights: str
    metrics: bytes
    account: Account


class Trial:
    """The runs of one configuration, each in a folder of its own below `folder`."""

    def __init__(self, folder: Path, args: list[str]) -> None:
        self.folder, self.args = folder, args
        self.endings: list[Ending] = []
        self.kills = 0
        self.lost: list[Lost] = []  # of each start after a kill in training
        self.runs = 0
        started = time.monotonic()
        self.plain = self.finish(self.new_run(), interrupted=False)
        self.seconds = time.monotonic() - started
        saves = (0, *self.plain.account.begun[0].saves)
        self.updates = self.plain.account.begun[0].done
        self.interval = max(later - earlier for earlier, later in itertools.pairwise(saves))

    def new_run(self) -> Path:
        """A folder for the next run."""
        self.runs += 1
        where = self.folder / f"run-{self.runs:03}"
        where.mkdir()
        return where

    def go(self, where: Path, *, kill_after_s: float | None = None, kill_after_update: int | None = None) -> bool:
        """Start the run in `where`, anew or again. True where it came to its end, false where it was killed.

        StressError where it ended otherwise.
        """
        log = where / "log.txt"
        args = [*self.args, f"paths.runs_dir={where}/runs", f"callbacks.witness.path={where}/witness.txt"]
        ending = start(args, log, kill_after_s=kill_after_s, kill_after_update=kill_after_update)
        self.endings.append(ending)
        if ending.code == KILLED:
            self.kills += 1
        elif ending.code != 0:
            last = "\n".join(log.read_text().splitlines()[-15:])
            raise StressError(f"a start of the run in {where} ended with code {ending.code}:\n{last}")
        return ending.code == 0

    def finish(self, where: Path, *, interrupted: bool = True) -> Result:
        """Start the run in `where` to its end, where it has not come to it; what it left, compared with the
        undisturbed one.

        StressError where anything differs.
        """
        if not list(where.glob("runs/*/result.json")):
            self.go(where)
        found = list(where.glob("runs/*/config.yaml"))
        if len(found) != 1:
            raise StressError(f"the run in {where} went on in another folder: {sorted(f.parent.name for f in found)}")
        folder = found[0].parent
        account = read_account(where / "witness.txt")
        result = Result(weights_hash(newest_checkpoint(folder)), (folder / "metrics.csv").read_bytes(), account)
        if interrupted:
            self.lost += lost_updates(account, where)
            for what, same in (
                ("the final weights", result.weights == self.plain.weights),
                ("metrics.csv", result.metrics == self.plain.metrics),
                ("the samples", account.batches == self.plain.account.batches and not account.differing),
            ):
                if not same:
                    raise StressError(
                        f"{what} of the interrupted run in {where} differ from those of {self.folder}/run-001"
                    )
        return result


def newest_checkpoint(folder: Path) -> dict[str, Any]:
    """The checkpoint of a run with the most updates done, whatever it is called."""
    files = sorted((folder / "checkpoints").rglob("*.ckpt"))
    return max((torch.load(file, weights_only=True) for file in files), key=lambda found: int(found["global_step"]))


def weights_hash(checkpoint: dict[str, Any]) -> str:
    """sha256 over every tensor of weights, average and optimizer, with its name, type and shape."""
    hashed = hashlib.sha256()
    for name, tensor in _tensors({key: checkpoint[key] for key in WEIGHTS if key in checkpoint}, ""):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _tensors(node: Any, place: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(node, torch.Tensor):
        yield place, node
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, value in items:
        yield from _tensors(value, f"{place}/{key}")


class Lost(NamedTuple):
    """updates: what a start had to do again. unwritten: the last save was begun and not yet safe when the kill came."""

    updates: int
    unwritten: bool


def lost_updates(account: Account, where: Path) -> list[Lost]:
    """What each start lost, but for the first.

    A save is written while training goes on, so a kill may meet one half written: that one alone may be lost, and
    with it as many updates as were done meanwhile, beyond those between two saves.

    StressError where a start went on from before the last save but one.
    """
    lost, saves = [], [0]
    for before, after in itertools.pairwise(account.begun):
        saves = sorted({update for update in (*saves, *before.saves) if update <= before.done})
        if after.at not in saves[-2:]:
            raise StressError(
                f"the run in {where} was killed after update {before.done}, had begun saves at {saves}, and went on "
                f"from {after.at}: more than one save is lost"
            )
        lost.append(Lost(before.done - after.at, after.at != saves[-1]))
    return lost


def stress(arguments: argparse.Namespace) -> int:
    """The command. Prints the figures; StressError where a promise does not hold."""
    for key, least in (("kills", 1), ("workers", 0), ("accumulate", 1), ("epochs", 1), ("save_every", 1)):
        whole(f"--{key.replace('_', '-')}", getattr(arguments, key), least)
    warm()
    folder = (
        Path(tempfile.mkdtemp(prefix="iwin-stress-")) if arguments.keep is None else Path(arguments.keep).absolute()
    )
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise StressError(f"--keep {folder}: there is something in it already; name a new folder")
    began = time.monotonic()
    trial = Trial(folder, configuration(arguments))
    print(
        f"undisturbed: {trial.updates} updates in {trial.seconds:.1f} s, a save every {trial.interval} at most, "
        f"weights {trial.plain.weights[:16]}",
        flush=True,
    )
    if arguments.every_update:
        kill_at_every_update(trial)
    else:
        kill_at_random(trial, arguments.kills, arguments.seed)
    wait_until_gone(trial.endings)
    print(figures(trial))
    print(f"{time.monotonic() - began:.0f} s in all; weights, samples and metrics.csv of all runs: identical")
    if arguments.keep is None:
        shutil.rmtree(folder)
    return 0


def configuration(arguments: argparse.Namespace) -> list[str]:
    """What train.py is given: the digits, with their warm-up, average of the weights and mixup."""
    return [
        *("data=digits", "trainer.accelerator=cpu", "trainer.devices=1", "log_every=1st"),
        *(f"duration={arguments.epochs}ep", f"trainer.precision={arguments.precision}"),
        *(f"trainer.accumulate_grad_batches={arguments.accumulate}", f"data.num_workers={arguments.workers}"),
        *("data.batch_size=16", f"trainer.limit_train_batches={UPDATES_PER_EPOCH * arguments.accumulate}"),
        *("data.eval_batch_size=60", "trainer.limit_val_batches=2"),
        *(f"callbacks.checkpoints.every=[1ep,{arguments.save_every}st]", "callbacks.curves=null"),
        *(f"seed={arguments.seed}", "+callbacks.witness._target_=iwin.train.callbacks.witness.Witness"),
        "+callbacks.witness.path=null",  # said for each run
        *arguments.overrides,
    ]


def kill_at_random(trial: Trial, kills: int, seed: int) -> None:
    """Kill at moments drawn over the length of an undisturbed run; a run that ends is followed by another."""
    moments = random.Random(seed)
    while trial.kills < kills:
        where = trial.new_run()
        while trial.kills < kills and not trial.go(where, kill_after_s=moments.uniform(0, trial.seconds)):
            if trial.kills % 10 == 0:
                print(f"{trial.kills} kills, {trial.runs - 1} runs", flush=True)
        trial.finish(where)


def kill_at_every_update(trial: Trial) -> None:
    """One run for each update, killed at the end of it, before anything is saved there, and started again."""
    for update in range(1, trial.updates + 1):
        where = trial.new_run()
        if trial.go(where, kill_after_update=update):
            raise StressError(f"the run in {where} was to be killed after update {update} and came to its end")
        trial.finish(where)


def figures(trial: Trial) -> str:
    """What happened, in a few lines."""
    written = [lost.updates for lost in trial.lost if not lost.unwritten]
    unwritten = [lost.updates for lost in trial.lost if lost.unwritten]
    return "\n".join(
        [
            f"{trial.kills} kills in {trial.runs - 1} runs, {len(trial.lost)} of them once training had begun",
            f"updates between two saves: {trial.interval}; done again after a kill: {max(written, default=0)} at most, "
            f"and {max(unwritten, default=0)} at most where it met a save half written ({len(unwritten)} times)",
        ]
    )
