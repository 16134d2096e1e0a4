from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from iwin.batch import Batch
from iwin.data.module import ImageDataModule
from iwin.data.order import order
from iwin.errors import ConfigError

Make = Callable[..., ImageDataModule]
SEEN = tuple[int, int, int, int, tuple[int, ...]]
TRAIN = 57


class Probe(pl.LightningModule):
    """A linear classifier that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3 * 64, 3)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.seen: list[SEEN] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.seen.append((*batch.position, tuple(batch.indices.tolist())))
        return cross_entropy(self.layer(batch.images.flatten(1)), batch.targets)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.images.dtype == torch.float32
        assert batch.targets.dtype == torch.int64
        self.validated += batch.indices.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class SaveAt(pl.Callback):
    """Save a checkpoint after batch number `batch` of the run, or at the end of epoch `epoch`; then perhaps die."""

    def __init__(self, path: Path, *, batch: int = -1, epoch: int = -1, die: bool = False) -> None:
        self.path, self.batch, self.epoch, self.die = path, batch, epoch, die
        self.count = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.count += 1
        if self.count == self.batch:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        if self.die:
            raise KeyError("the end of this process")


def trainer(*callbacks: pl.Callback, epochs: int = 3, accumulation: int = 1, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=accumulation,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"limit_val_batches": 0, "num_sanity_val_steps": 0} | options,
    )


def fit(data: ImageDataModule, *callbacks: pl.Callback, resume: Path | None = None, **options: Any) -> Probe:
    probe = Probe()
    trainer(*callbacks, **options).fit(probe, datamodule=data, ckpt_path=resume)
    return probe


def expected(seed: int, epochs: int, batch: int, accumulation: int, samples: int = TRAIN) -> list[SEEN]:
    whole = batch * accumulation
    seen: list[SEEN] = []
    for epoch in range(epochs):
        visited = order(seed, 0, epoch, samples)
        for step in range(samples // whole):
            for micro in range(accumulation):
                start = step * whole + micro * batch
                seen.append((0, epoch, step, micro, tuple(visited[start : start + batch].tolist())))
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_visits_its_own_order(noise: Make, workers: int) -> None:
    probe = fit(noise(num_workers=workers), limit_val_batches=1.0)
    assert probe.seen == expected(7, 3, 5, 1)
    assert sorted(probe.validated) == sorted(list(range(13)) * 3)


# 57 samples in batches of 5 make 11 micro-batches, or 5 updates of 2, in an epoch.
@pytest.mark.parametrize(
    ("workers", "accumulation", "cut"),
    [(0, 1, cut) for cut in (1, 5, 10, 11, 12, 22, 32)]
    + [(0, 2, cut) for cut in (1, 2, 3, 9, 10, 11, 20, 29)]
    + [(2, 1, 5), (2, 2, 3), (2, 2, 10)],
)
def test_a_run_cut_anywhere_goes_on_as_if_it_had_not_been(
    noise: Make, tmp_path: Path, workers: int, accumulation: int, cut: int
) -> None:
    options = {"accumulation": accumulation}
    plain = fit(noise("deit"), **options)
    assert plain.seen == expected(7, 3, 5, accumulation)
    path = tmp_path / "cut.ckpt"
    with pytest.raises(KeyError, match="the end of this process"):
        fit(noise("deit"), SaveAt(path, batch=cut, die=True), **options)
    again = fit(noise("deit", num_workers=workers), resume=path, **options)
    finished = cut // accumulation * accumulation  # an update that was cut is made anew
    assert again.seen == plain.seen[finished:]
    assert torch.equal(again.layer.weight, plain.layer.weight)


@pytest.mark.parametrize("when", [{"epoch": 1}, {"batch": 22}])
def test_a_run_cut_at_the_end_of_an_epoch_starts_the_next(noise: Make, tmp_path: Path, when: dict[str, int]) -> None:
    path = tmp_path / "cut.ckpt"
    plain = fit(noise(), SaveAt(path, **when), limit_val_batches=1)
    again = fit(noise(), resume=path, limit_val_batches=1)
    assert again.seen == plain.seen[22:]
    assert torch.equal(again.layer.weight, plain.layer.weight)


@pytest.mark.parametrize("cut", [3, 4, 5, 8])
def test_an_interrupted_run_may_go_on_with_other_micro_batches(noise: Make, tmp_path: Path, cut: int) -> None:
    """As with fewer devices: the updates have the same samples, in other micro-batches."""
    path = tmp_path / "cut.ckpt"
    plain = fit(noise(batch_size=14), SaveAt(path, batch=cut))
    again = fit(noise(batch_size=7), resume=path, accumulation=2)
    halves = [(seen[:3], seen[4][half * 7 :][:7]) for seen in plain.seen[cut:] for half in (0, 1)]
    assert [(seen[:3], seen[4]) for seen in again.seen] == halves
    assert torch.allclose(again.layer.weight, plain.layer.weight, atol=1e-5)


def test_inside_an_epoch_another_global_batch_is_refused_and_at_its_end_allowed(noise: Make, tmp_path: Path) -> None:
    inside, end = tmp_path / "inside.ckpt", tmp_path / "end.ckpt"
    fit(noise(batch_size=10), SaveAt(inside, batch=3), SaveAt(end, epoch=0), epochs=1)
    with pytest.raises(ConfigError, match=r"at update 3, and the global batch .* was 10 and is 5"):
        fit(noise(batch_size=5), resume=inside)
    with pytest.raises(ConfigError, match="the seed was 7 and is 8"):
        fit(noise(batch_size=10, seed=8), resume=inside)
    assert fit(noise(batch_size=5), resume=end, epochs=2).seen == expected(7, 2, 5, 1)[11:]


@pytest.mark.parametrize("when", [{"batch": 3}, {"epoch": 0}, {"batch": 4}])
def test_a_cut_run_of_limited_epochs_goes_on(noise: Make, tmp_path: Path, when: dict[str, int]) -> None:
    options = {"limit_train_batches": 3, "epochs": 3}
    path = tmp_path / "cut.ckpt"
    plain = fit(noise(), SaveAt(path, **when), **options)
    assert len(plain.seen) == 9
    assert fit(noise(), resume=path, **options).seen == plain.seen[when.get("batch", 3) :]


def test_after_an_exception_inside_an_update_that_update_is_made_anew(noise: Make) -> None:
    class Dies(Probe):
        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            if batch.position[1:] == (1, 2, 1):
                raise KeyError("in the middle")
            return super().training_step(batch, batch_idx)

    data = noise()
    with pytest.raises(KeyError):
        trainer(accumulation=2).fit(Dies(), datamodule=data)
    state = data.state_dict()
    assert [state["attempt"], state["epoch"], state["updates"]] == [0, 1, 2]


def test_after_a_roll_back_the_order_is_another(noise: Make, tmp_path: Path) -> None:
    path = tmp_path / "good.ckpt"
    data = noise(batch_size=10)
    fit(data, SaveAt(path, batch=2), epochs=1)
    data.roll_back()
    probe = fit(data, resume=path, epochs=1)
    assert [seen[:3] for seen in probe.seen] == [(1, 0, step) for step in range(2, 5)]
    assert list(probe.seen[0][4]) == order(7, 1, 0, TRAIN)[20:30].tolist()
    assert data.state_dict()["attempt"] == 1


def test_a_second_fit_goes_on_in_the_next_epoch(noise: Make) -> None:
    data, probe, first = noise(), Probe(), trainer(epochs=1)
    first.fit(probe, datamodule=data)
    first.fit_loop.max_epochs = 2
    first.fit(probe, datamodule=data)
    assert probe.seen == expected(7, 2, 5, 1)


def test_overfitting_repeats_the_same_samples(noise: Make) -> None:
    probe = fit(noise(), overfit_batches=2)
    assert len(probe.seen) == 6
    assert len({seen[4] for seen in probe.seen}) == 2


@pytest.mark.parametrize("recipe", ["deit", "simple", "none"])
def test_pixels_and_targets_do_not_depend_on_the_number_of_workers(noise: Make, recipe: str) -> None:
    class Keeps(Probe):
        def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
            self.kept = [*getattr(self, "kept", []), (batch.images.clone(), batch.targets.clone())]
            return super().training_step(batch, batch_idx)

    kept = []
    for workers in (0, 2):
        probe = Keeps()
        trainer(epochs=1, limit_train_batches=4).fit(probe, datamodule=noise(recipe, num_workers=workers))
        kept.append(probe.kept)
    assert len(kept[0]) == 4
    for (images, targets), (others, other_targets) in zip(*kept, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, other_targets)
    soft = kept[0][0][1]
    assert soft.shape == ((5, 3) if recipe == "deit" else (5,))
    assert len({images.sum().item() for images, _ in kept[0]}) == 4


def test_a_worker_has_one_thread_and_makes_channels_last_bytes(digits: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits(num_workers=1)
    data.trainer = trainer()

    class Threads:
        def __call__(self, image: Any) -> np.ndarray:
            return np.full((4, 6, 3), torch.get_num_threads(), dtype=np.uint8)

    data.train_dataset.transform = Threads()
    torch.set_num_threads(2)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.unique().tolist() == [1]
    assert batch.images.shape == (16, 3, 4, 6)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.untyped_storage().nbytes() == 16 * 3 * 4 * 6


def test_updates_are_counted_without_a_trainer(digits: Make) -> None:
    data = digits(batch_size=16)
    assert data.updates_per_epoch(world=1, accumulation=1) == 89
    assert data.updates_per_epoch(world=4, accumulation=2) == 11
    assert data.updates_per_epoch(world=4, accumulation=2, limit=5) == 3
    assert data.updates_per_epoch(world=4, accumulation=2, limit=0.5) == 6
    with pytest.raises(ConfigError, match="global batch of 1600"):
        data.updates_per_epoch(world=100, accumulation=1)


def test_provenance_is_plain_and_tells_the_shards(digits: Make) -> None:
    told = digits().describe()
    assert json.loads(json.dumps(told)) == told
    assert [told["name"], told["num_classes"]] == ["digits", 10]
    assert [len(told[split]["shards"]) for split in ("train", "val")] == [4, 2]
    assert sum(shard["samples"] for shard in told["train"]["shards"]) == 1438 == told["train"]["samples"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "data.batch_size must be a whole number of at least 1, got 0"),
        ({"eval_batch_size": 0}, "data.eval_batch_size must be a whole number of at least 1, got 0"),
        ({"image_size": [8, 8, 8]}, "data.image_size"),
        ({"std": [1, 1, 0]}, "data.std"),
        ({"mean": [1, 1]}, "data.mean"),
        ({"num_workers": -1}, "data.num_workers must be a whole number of at least 0, got -1"),
        ({"format": "shard"}, "data.format is 'shard': did you mean shards"),
        ({"shuffle": "none"}, "data.shuffle is .none.: there are: block, global"),
        ({"open_shards": 0}, "data.open_shards must be a whole number of at least 1, got 0"),
        ({"format": "folder", "shuffle": "block"}, "data.shuffle is block, which is for shards"),
        ({"class_list": "imagenet1k"}, "data.class_list is .imagenet1k.: did you mean imagenet-1k"),
    ],
)
def test_values_that_cannot_be_used_are_refused(digits: Make, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        digits(**change)


def test_normalised_digits_have_mean_0_and_deviation_1(digits: Make) -> None:
    data = digits("none", eval_batch_size=359)
    data.trainer = trainer()
    batch = data.batch_augment(next(iter(data.val_dataloader())), training=False, rank=0)
    assert abs(batch.images.mean().item()) < 0.02
    assert abs(batch.images.std().item() - 1) < 0.02
    assert np.array_equal(batch.targets.numpy(), data.val_dataset.labels)
