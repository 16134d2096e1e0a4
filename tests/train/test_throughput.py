"""What a run tells of its speed and its memory."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iwin.train.callbacks.throughput import WARM_UP, Throughput, peak_memory

NONE: Any = None


def test_only_the_time_between_batches_of_an_epoch_counts() -> None:
    now = [0.0]
    callback = Throughput(clock=lambda: now[0])
    trainer: Any = SimpleNamespace(world_size=2)
    batch = SimpleNamespace(images=torch.empty(8, 1))

    def epoch(batches: int, seconds: float) -> None:
        now[0] += 1000.0  # validation, a checkpoint, the first batch
        callback.on_train_epoch_start(trainer, NONE)
        for _ in range(batches):
            now[0] += seconds
            callback.on_train_batch_end(trainer, NONE, NONE, batch, 0)

    epoch(WARM_UP, 50.0)
    assert callback.images_per_s is None
    epoch(5, 2.0)  # four intervals of 2 s with 16 images
    assert callback.images_per_s == pytest.approx(8.0)
    epoch(3, 1.0)
    assert callback.images_per_s == pytest.approx(16 * 6 / 10)


def test_the_peak_of_a_process_holds_what_it_had() -> None:
    before, of = peak_memory(torch.device("cpu"))
    assert of == "process"
    block = torch.ones(2**26)  # 256 MiB
    assert peak_memory(torch.device("cpu"))[0] >= block.nbytes
    assert peak_memory(torch.device("cpu"))[0] >= before


@pytest.mark.slow
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    block = torch.ones(2**29)  # 2 GiB
    ask = (
        "import torch; from iwin.train.callbacks.throughput import peak_memory as of; print(of(torch.device('cpu'))[0])"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert int(done.stdout) < block.nbytes
