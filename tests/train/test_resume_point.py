from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iwin.errors import ConfigError, WeightsError
from iwin.train import resume_point as module
from iwin.train.durable import put_checkpoint
from iwin.train.recovery import Recovery, update_name
from iwin.train.resume_point import agree_on_checkpoint
from iwin.train.run_folder import CHECKPOINT_VARIABLE

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable is there, and none is left behind."""
    monkeypatch.setenv(CHECKPOINT_VARIABLE, "")
    monkeypatch.delenv(CHECKPOINT_VARIABLE)


def folder(path: Path, *, leads: bool) -> Any:
    content: dict[str, Any] = {"state_dict": {}, "loops": {}, "optimizer_states": []}
    for update in (1, 2):
        put_checkpoint(path / "checkpoints" / update_name(update), lambda sink: torch.save(content, sink))
    return SimpleNamespace(path=path, checkpoints=path / "checkpoints", leads=leads)


def trainer(rank: int, told: Any = None, *, together: bool = False) -> Any:
    """`told`: what comes from rank 0; together: a launcher has started all ranks."""
    strategy = SimpleNamespace(
        cluster_environment=SimpleNamespace(creates_processes_externally=together),
        setup_environment=lambda: None,
        broadcast=lambda mine: mine if rank == 0 else told,
    )
    return SimpleNamespace(strategy=strategy, is_global_zero=rank == 0, global_rank=rank)


def test_the_leader_decides_and_tells_the_processes_that_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = agree_on_checkpoint(trainer(0), folder(tmp_path, leads=True))
    assert decided == Recovery(tmp_path / "checkpoints" / update_name(2))
    monkeypatch.setattr(module, "recover", lambda _: pytest.fail("only the leader looks"))
    follower = SimpleNamespace(path=tmp_path, checkpoints=tmp_path / "checkpoints", leads=False)
    assert agree_on_checkpoint(trainer(1, together=True), follower) == decided
    os.environ[CHECKPOINT_VARIABLE] = ""
    assert agree_on_checkpoint(trainer(1, together=True), follower) == Recovery(None)


def test_the_leader_looks_anew_each_time(tmp_path: Path) -> None:
    """As after a roll-back in the same process."""
    run = folder(tmp_path, leads=True)
    agree_on_checkpoint(trainer(0), run)
    (run.checkpoints / update_name(2)).unlink()
    assert agree_on_checkpoint(trainer(0), run).checkpoint == run.checkpoints / update_name(1)


def test_ranks_that_were_started_together_take_what_rank_0_found(tmp_path: Path) -> None:
    run = folder(tmp_path, leads=True)
    assert agree_on_checkpoint(trainer(0, together=True), run).checkpoint == run.checkpoints / update_name(2)
    told = (tmp_path, Recovery(run.checkpoints / update_name(1)), "")
    follower = SimpleNamespace(path=tmp_path, checkpoints=run.checkpoints, leads=False)
    assert agree_on_checkpoint(trainer(1, told, together=True), follower) == told[1]
    with pytest.raises(ConfigError, match=r"rank 1 has taken the run folder .*, and rank 0 /elsewhere"):
        agree_on_checkpoint(trainer(1, (Path("/elsewhere"), Recovery(None), ""), together=True), follower)
    with pytest.raises(WeightsError, match="of a newer version"):
        agree_on_checkpoint(trainer(1, (tmp_path, Recovery(None), "of a newer version"), together=True), follower)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]])
def test_two_ranks_pass_over_a_damaged_checkpoint_and_end_in_the_same_bits(tmp_path: Path, launcher: list[str]) -> None:
    command = [
        *(sys.executable, *launcher, "train.py", "duration=3ep", "data.num_workers=0"),
        *("trainer.limit_train_batches=4", "schedule.warmup=1st", "trainer.accelerator=cpu", "trainer.devices=2"),
        *("trainer.precision=32-true", f"paths.runs_dir={tmp_path}"),
    ]

    def start() -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    def weights() -> dict[str, torch.Tensor]:
        return torch.load(run / "checkpoints" / update_name(12), weights_only=True)["state_dict"]

    start()
    (run,) = tmp_path.iterdir()
    whole = weights()
    (run / "result.json").unlink()  # as if it had been killed at its very end
    content = bytearray((run / "checkpoints" / update_name(12)).read_bytes())
    content[5000] ^= 1
    (run / "checkpoints" / update_name(12)).write_bytes(content)
    printed = start()
    assert printed.count("Passed over update-00000012.ckpt") == 1
    assert "going on from checkpoints/update-00000008.ckpt" in printed
    assert all(torch.equal(whole[name], weight) for name, weight in weights().items())
