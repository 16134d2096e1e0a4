"""Checkpoints on their way to the disk and back, for Lightning."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from iwin.errors import UserError
from iwin.train.durable import put_checkpoint, remove_checkpoint
from iwin.train.snapshot import snapshot


class SaveError(UserError):
    """A checkpoint that cannot be written."""


class DurableCheckpointIO(CheckpointIO):
    """Saves without holding up training longer than a copy to host memory takes, and never at an older one's cost.

    A thread writes, one checkpoint at a time: a second save waits for the first. An error of the thread is raised by
    the next save, by `wait` or by `teardown`, once. The process does not end before the thread has.
    """

    def __init__(self) -> None:
        self._writer: threading.Thread | None = None
        self._path = Path()  # of the last save
        self._error: BaseException | None = None

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Callable[[Path], None] | None = None,
    ) -> None:
        """Copy `checkpoint` to host memory and have it written to `path`. Raises what `wait` does.

        storage_options: called with the path once the checkpoint is safe on the disk, by the thread that wrote it.
        """
        self.wait()
        self._path = Path(path)
        copied, arrived = snapshot(checkpoint)

        def write() -> None:
            try:
                arrived()
                put_checkpoint(self._path, lambda sink: torch.save(copied, sink))  # type: ignore[arg-type]
                if storage_options is not None:
                    storage_options(self._path)
            except BaseException as error:  # raised again where training is
                self._error = error

        self._writer = threading.Thread(target=write, name="checkpoint-writer")
        self._writer.start()

    def wait(self) -> None:
        """Return when no write is in flight. SaveError where the last one failed: older checkpoints are unharmed."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        error, self._error = self._error, None
        if isinstance(error, OSError):
            raise SaveError(
                f"{self._path} could not be written: {error.strerror}. The older checkpoints are as they were: make "
                "room, or mend what is wrong there, and start the same command again"
            ) from error
        if error is not None:
            raise error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint into host memory: as plain values and tensors, whatever `weights_only` asks for."""
        if weights_only is False:
            raise ValueError("checkpoints are loaded with weights_only, always")
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and its sha256."""
        remove_checkpoint(Path(path))

    def teardown(self) -> None:
        """See the last write to its end. Raises what `wait` does."""
        self.wait()
