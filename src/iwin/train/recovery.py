"""The checkpoints of a run, and which of them it goes on from: the newest that is what was saved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iwin.errors import WeightsError
from iwin.train.durable import remove_unfinished, sync_folder
from iwin.weights.digest import damage, digest_file
from iwin.weights.migrate import check_version

BEST = "best.ckpt"
DAMAGED = ".damaged"
_UPDATE = re.compile(r"update-(\d{8,})\.ckpt")
_NEEDED = ("state_dict", "loops", "optimizer_states")


def update_name(update: int) -> str:
    """The name of the checkpoint after `update` optimizer updates."""
    return f"update-{update:08d}.ckpt"


def update_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of updates in `folder`, the newest first."""
    found = {int(match[1]): file for file in folder.glob("update-*") if (match := _UPDATE.fullmatch(file.name))}
    return [found[update] for update in sorted(found, reverse=True)]


@dataclass(frozen=True)
class Recovery:
    """checkpoint: where the run goes on; None for its beginning. notes: for people, what was passed over and why."""

    checkpoint: Path | None
    notes: tuple[str, ...] = ()


def recover(folder: Path) -> Recovery:
    """The newest valid checkpoint in `folder`; newer ones that are damaged are set aside.

    For the one process that holds the run. The best checkpoint holds the whole state too and is the last resort.
    WeightsError where a newer version of this program wrote the checkpoint.
    """
    notes = [f"Saving {name} was cut short: what there was of it is removed." for name in remove_unfinished(folder)]
    for path in [*update_checkpoints(folder), folder / BEST]:
        if not path.exists():
            continue
        why = damage(path) or unusable(path)
        if why is None:
            return Recovery(path, tuple(notes))
        notes.append(f"Passed over {path.name}: {why}. It is kept as {set_aside(path).name}.")
    return Recovery(None, tuple(notes))


def unusable(path: Path) -> str | None:
    """Why training cannot go on from a checkpoint that is as it was saved; None where it can.

    WeightsError where a newer version of this program wrote it.
    """
    try:
        checkpoint = read_checkpoint(path)
    except Exception as error:  # whatever torch makes of it, it is no checkpoint; the message says what
        return f"it cannot be loaded as plain values and tensors: {str(error).strip().splitlines()[0]}"
    missing = [key for key in _NEEDED if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        return f"it is no checkpoint of a run: it has no {', '.join(missing)}"
    if "iwin" in checkpoint:
        try:
            check_version(checkpoint["iwin"]["version"])
        except WeightsError as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error
    return None


def read_checkpoint(path: Path) -> Any:
    """What a checkpoint holds, as plain values and tensors that are read from the file when they are used."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint to NAME.damaged, with a number where that is taken; returns its new path."""
    number = 1
    while True:
        aside = path.with_name(path.name + DAMAGED + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            break
        number += 1
    path.rename(aside)
    if digest_file(path).exists():
        digest_file(path).rename(digest_file(aside))
    sync_folder(path.parent)
    return aside
