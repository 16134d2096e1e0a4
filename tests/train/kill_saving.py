"""Kill a saving process at one system call after the other, and look for what was lost.

python kill_saving.py FOLDER N: N children of one warmed process take up the run in FOLDER as training does, save in
a loop, tell when a checkpoint is safe, and die by SIGKILL at their first, second, ... call of the system; a write
is cut in half.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from iwin.train.callbacks.checkpoints import Best, Checkpoints
from iwin.train.checkpoint import DurableCheckpointIO
from iwin.train.recovery import BEST, Recovery, read_checkpoint, recover, update_checkpoints
from iwin.weights.digest import damage

SYSTEM_CALLS = ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "close")


class Killer:
    """Ends the process at its `nth` call of the system."""

    def __init__(self, nth: int) -> None:
        self.left = nth
        self._write = os.write
        for name in SYSTEM_CALLS:
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, call: Callable) -> Callable:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                if name == "write":
                    self._write(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped


def content(update: int, callback: Checkpoints) -> dict[str, Any]:
    state = {"w": torch.full((500,), float(update))}
    callbacks = {callback.state_key: callback.state_dict()}
    return {"global_step": update, "state_dict": state, "loops": {}, "optimizer_states": [], "callbacks": callbacks}


def save_until_killed(folder: Path, nth: int, told: int) -> None:
    """What the child does; `told` is the pipe on which it tells each update that is safe."""
    write = os.write
    Killer(nth)
    callback, durable = Checkpoints(folder), DurableCheckpointIO()
    trainer: Any = SimpleNamespace(
        global_step=0,
        max_epochs=1,
        num_training_batches=1000,
        accumulate_grad_batches=1,
        is_global_zero=True,
        strategy=SimpleNamespace(broadcast=lambda value: value, checkpoint_io=durable),
        save_checkpoint=lambda path, storage_options: durable.save_checkpoint(
            content(trainer.global_step, callback), path, storage_options
        ),
    )
    start = recover(folder).checkpoint
    if start is not None:
        loaded = durable.load_checkpoint(start)
        trainer.global_step = loaded["global_step"]
        callback.load_state_dict(loaded["callbacks"][callback.state_key])
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    while True:
        trainer.global_step += 1
        if trainer.global_step % 3 == 1:
            callback.best = Best(trainer.global_step, trainer.global_step)
        callback.save(trainer)
        callback.wait(trainer)
        write(told, f"{trainer.global_step}\n".encode())


def killed(folder: Path, nth: int) -> list[int]:
    """The updates that the child had told to be safe."""
    reading, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            save_until_killed(folder, nth, told)
        finally:  # only an error comes here
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    os.close(told)
    with os.fdopen(reading) as lines:
        safe = [int(line) for line in lines if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"child {nth} was to be killed, and ended by itself with {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return safe


def check(folder: Path, safe: int, nth: int) -> Recovery:
    """Nothing that was safe is lost, nothing is damaged; returns where a run would go on."""
    for file in folder.glob("*.ckpt"):
        why = damage(file)
        assert why is None, f"after kill {nth}, {file.name}: {why}"
    there = [int(read_checkpoint(file)["state_dict"]["w"][0]) for file in update_checkpoints(folder)]
    assert there == [int(file.stem.removeprefix("update-")) for file in update_checkpoints(folder)]
    assert not safe or there[0] >= safe, f"after kill {nth}: update {safe} was safe, the newest is {there[:1]}"
    assert safe < 2 or len(there) >= 2, f"after kill {nth}: only {there} is left"
    best = max((update for update in range(1, safe + 1) if update % 3 == 1), default=None)
    if best is not None:
        assert int(read_checkpoint(folder / BEST)["state_dict"]["w"][0]) >= best, f"after kill {nth}"
    recovery = recover(folder)
    assert not [note for note in recovery.notes if "Passed over" in note], recovery.notes
    return recovery


def main(folder: Path, kills: int) -> None:
    torch.set_num_threads(1)
    safe = 0
    for nth in range(1, kills + 1):
        safe = max([safe, *killed(folder, nth)])
        recovery = check(folder, safe, nth)
        if recovery.checkpoint is not None:
            safe = max(safe, int(read_checkpoint(recovery.checkpoint)["global_step"]))
    print(f"{kills} kills, 0 valid checkpoints lost, {safe} updates saved")


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "checkpoints", int(sys.argv[2]))
