"""A NaN on one of two ranks is skipped, and gone back from, on both."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from nonfinite_runs import BATCH, PLACES, THREE, UPDATES, Save, Task, digits, everything, newest, run

from iwin.train.callbacks.nonfinite import read_nonfinite
from iwin.train.rollback import read_roll_backs, train_with_roll_backs


def two_ranks(rank: int, port: int, folder: Path, results: Any) -> None:
    """A process of two: the same in all places, one after the other, with the NaN on rank 1 alone; then going back."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ddp = {"devices": 2, "strategy": "ddp"}
    out: dict[str, Any] = {}
    for place in (*PLACES, "omitted"):
        task = Task({(0, 4)}, place, rank=1, accumulation=2)
        state = everything(run(task, folder / place, accumulation=2, **ddp))
        # Plain arrays: tensors would be handed over as files of this process, which is about to end.
        weights = [parameter.detach().numpy() for parameter in task.model.parameters()]
        momenta = [entry["exp_avg"].numpy() for entry in state["optimizer"]["state"].values()]
        out[place] = [*weights, *momenta]
    data, tasks, back = digits(), [], folder / "back"

    def once() -> lightning.Trainer:
        tasks.append(Task(THREE, "input", rank=1))
        return run(tasks[-1], back, Save(back, 4), data=data, resume=newest(back), **ddp)

    back.mkdir(exist_ok=True)
    train_with_roll_backs(once, folder=back, data=data, writes=rank == 0)
    out["back"] = [parameter.detach().numpy() for parameter in tasks[-1].model.parameters()]
    out["seen"] = [seen[:2] for seen in tasks[-1].seen]
    results.put((rank, out))


def in_two_processes(function: Callable[..., None], *args: Any, timeout_s: float = 240) -> dict[int, Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["iwin.train.fit", "lightning", "timm.optim"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = context.Queue()
    ranks = [context.Process(target=function, args=(rank, port, *args, results), daemon=True) for rank in (0, 1)]
    try:
        for process in ranks:
            process.start()
        return dict(results.get(timeout=timeout_s) for _ in ranks)
    finally:
        for process in ranks:
            process.join(timeout=20)
            process.kill()


@pytest.mark.slow
def test_a_nan_on_one_of_two_ranks_is_in_the_weights_of_neither(tmp_path: Path) -> None:
    results = in_two_processes(two_ranks, tmp_path)
    for place in PLACES:
        for one, other, omitted in zip(*(results[rank][place] for rank in (0, 1)), results[0]["omitted"], strict=True):
            assert (one == other).all(), f"{place}: the ranks differ"
            assert (one == omitted).all(), f"{place}: not as if the update had been left out"
        rows = read_nonfinite(tmp_path / place / "nonfinite.csv")
        assert len({row[5] for row in rows}) == 2 * 2 * BATCH
        assert {row[1] for row in rows} == {4}
        bad = {row[2:4] for row in rows if not torch.isfinite(torch.tensor(row[4]))}
        assert bad == (set() if place == "gradient" else {(1, 0)}), "rank 1, micro-batch 0, and no other"
    assert results[0]["seen"] == results[1]["seen"] == [(1, update) for update in range(5, UPDATES + 1)]
    assert all((one == other).all() for one, other in zip(results[0]["back"], results[1]["back"], strict=True))
    assert read_roll_backs(tmp_path / "back") == [{"attempt": 0, "updates": [5, 6, 7]}]
