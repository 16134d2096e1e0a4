"""The one LightningDataModule: a configured data set as batches for training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from iwin.batch import Batch
from iwin.data.augment import EvalTransform, TrainTransform
from iwin.data.dataset import ImageDataset
from iwin.data.mixup import BatchAugment
from iwin.data.order import Shuffle
from iwin.data.recipe import Recipe
from iwin.data.remote import BlockFeed, feed
from iwin.data.resume import Standing, StandingTracker, align_batches, check_same_order
from iwin.data.sampler import EvalSampler, TrainSampler, updates_per_epoch
from iwin.data.sizes import Progressive, Size, check_takes_sizes, read_size
from iwin.data.source import SPLITS, Source
from iwin.data.visits import Visits
from iwin.errors import ConfigError, number, whole


def hand_over(batch: Batch) -> Batch:
    """The collate function: the data set makes whole batches. A named function, as lambdas do not pickle."""
    return batch


class ImageDataModule(LightningDataModule):
    """Images of the data set `name`; every argument is a key of conf/data.

    name, format, root, root_env, train, val, val_fraction, num_classes, class_list: where the images are and what
        they must be; see Source.
    image_size: height and width in pixels, or one number for both. progressive: other sizes for training images, by
        duration; see Progressive. None: image_size throughout.
    mean, std: of the data set's pixels in 0..1, per channel.
    batch_size: images of one micro-batch on one device, in training; eval_batch_size: in evaluation.
    num_workers: processes that make batches, for each device and each of training and evaluation; 0 makes them
        in the training process. prefetch: batches that each keeps ready. pin_memory: copy through pinned
        memory, where there is an accelerator.
    repeats: how often an epoch visits a sample, each time with other draws, and fewer samples for it; see TrainSampler.
    shuffle: the order of training, "global" or "block" with open_shards shards in a block; see order.py.
    cache_dir, cache_gb: of a data set at a URL; see Source. The last four are of shards; folders leave them out.
    augment: the keys of conf/augment, see Recipe. seed: of the run. split_seed: of the split by val_fraction, so
        that runs with other seeds are measured on the same images.

    `trainer.use_distributed_sampler` must be false: the samplers here give each rank its share.

    Raises:
        ConfigError: a value that cannot be used.
    """

    # A validation set smaller than the number of ranks leaves some without a batch, which is right here.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        *,
        name: str,
        format: str,
        root: str | None,
        root_env: str | None,
        train: str,
        val: str,
        val_fraction: float | None,
        num_classes: int | None,
        image_size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        prefetch: int,
        pin_memory: bool,
        augment: Mapping[str, Any],
        seed: int,
        split_seed: int,
        class_list: str | None,
        progressive: Mapping[str, Any] | None = None,
        repeats: int = 1,
        shuffle: str = "global",
        open_shards: int = 1,
        cache_dir: str = "",
        cache_gb: float = 0,
    ) -> None:
        super().__init__()
        self.visits = Visits(shuffle=shuffle, open_shards=open_shards, repeats=repeats, format=format, seed=seed)
        self.source = Source(
            name=name,
            format=format,
            root=root,
            root_env=root_env,
            train=train,
            val=val,
            val_fraction=val_fraction,
            num_classes=num_classes,
            class_list=class_list,
            split_seed=split_seed,
            cache_dir=cache_dir,
            cache_gb=number("data.cache_gb", cache_gb, 0),
            open_files=open_shards,
            whole_shards=self.visits.by_blocks,
        )
        self.image_size = read_size("data.image_size", image_size)
        self.progressive = None if progressive is None else Progressive(progressive)
        self.mean, self.std = _channels("mean", mean), _channels("std", std)
        if min(self.std) <= 0:
            raise ConfigError(f"data.std is {list(std)}: every value must be above 0.")
        self.batch_size = whole("data.batch_size", batch_size, 1)
        self.eval_batch_size = whole("data.eval_batch_size", eval_batch_size, 1)
        self.num_workers = whole("data.num_workers", num_workers, 0)
        self.prefetch, self.pin_memory = whole("data.prefetch", prefetch, 1), pin_memory
        self.recipe = Recipe.read(augment)
        self.seed = seed
        self._attempt = 0
        self._loaded: dict[str, Any] | None = None
        self._tracker = StandingTracker()
        self._feed: BlockFeed | None = None

    def check(self, splits: Sequence[str] = SPLITS) -> None:
        """Open the data set and check it, before a model is built; `splits` for an evaluation is ("val",).

        Raises:
            DataError: it is missing, damaged, or has other classes than configured; the message says where it
                was looked for, what sets that, and how to make it.
        """
        for split in splits:
            _ = self.train_dataset if split == "train" else self.val_dataset

    @cached_property
    def train_dataset(self) -> ImageDataset:
        """The training images, with the recipe's transform. Raises as `check`."""
        return self.source.open("train", self._train_transform(self.image_size), self.seed)

    @cached_property
    def val_dataset(self) -> ImageDataset:
        """The validation images, resized and cropped. Raises as `check`."""
        return self.source.open("val", EvalTransform(self.image_size, self.recipe), None)

    @property
    def num_classes(self) -> int:
        """The number of classes: data.num_classes, or what the data set tells where that is null."""
        return self.source.num_classes

    @property
    def classes(self) -> list[str] | None:
        """The names of the classes by label, where the data set tells."""
        return self.source.classes

    def describe(self, splits: Sequence[str] = SPLITS) -> dict[str, Any]:
        """The data set for the provenance of a run: plain values, with the hashes of its content."""
        parts = {split: self.train_dataset if split == "train" else self.val_dataset for split in splits}
        return {**self.source.describe(), **{split: part.describe() for split, part in parts.items()}}

    def updates_per_epoch(self, world: int, accumulation: int, limit: int | float = 1.0) -> int:
        """Optimizer updates in an epoch on `world` processes with `accumulation` micro-batches an update.

        limit: trainer.limit_train_batches, in micro-batches or as a fraction. Raises ConfigError where the
        training set is smaller than one global batch.
        """
        updates = updates_per_epoch(len(self.train_dataset), self.batch_size, world, accumulation)
        micro = updates * accumulation
        kept = min(micro, limit) if isinstance(limit, int) else int(micro * limit)
        return -(-kept // accumulation)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the epoch that the trainer is in, from the update that a loaded checkpoint stands at."""
        trainer = self._trainer()
        world, accumulation = trainer.world_size, trainer.accumulate_grad_batches
        standing = Standing(self._attempt, trainer.current_epoch, 0)
        if self._loaded is not None:
            standing = Standing(self._attempt, self._loaded["epoch"], self._loaded["updates"])
            if standing.updates:
                check_same_order(self._loaded, self._order_facts())
            align_batches(trainer, standing, self._updates_per_epoch())
            self._loaded = None
        self._tracker.start(standing)
        self._grow(trainer)
        sampler = TrainSampler(
            self._shuffle,
            batch_size=self.batch_size,
            world=world,
            rank=trainer.global_rank,
            accumulation=accumulation,
            seed=self.seed,
            attempt=standing.attempt,
            epoch=standing.epoch,
            start_step=standing.updates,
            reshuffle=not trainer.overfit_batches,
            repeats=self.visits.repeats,
        )
        if self.source.remote:
            repeats, update = self.visits.repeats, self.batch_size * world * accumulation
            self._feed = feed(self.train_dataset, self._shuffle, seed=self.seed, update=update, repeats=repeats)
        return self._loader(self.train_dataset, sampler)

    def _train_transform(self, size: Size) -> TrainTransform:
        return TrainTransform(size, self.recipe, self.mean)

    def _grow(self, trainer: Any) -> None:
        """Give the training set the sizes of data.progressive, now that the length of the run is known."""
        if self.progressive is not None:
            starts = self.progressive.starts(per_epoch=self._updates_per_epoch(), epochs=trainer.max_epochs)
            check_takes_sizes(getattr(trainer.lightning_module, "model", None), [size for _, size in starts])
            self.train_dataset.later = [(start, self._train_transform(size)) for start, size in starts]

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation sample once over all ranks."""
        trainer = self._trainer()
        sampler = EvalSampler(
            len(self.val_dataset), batch_size=self.eval_batch_size, world=trainer.world_size, rank=trainer.global_rank
        )
        return self._loader(self.val_dataset, sampler)

    def _loader(self, dataset: ImageDataset, sampler: TrainSampler | EvalSampler) -> DataLoader[Batch]:
        # torch gives each worker one thread, which is right: decoding and augmenting an image is serial.
        return DataLoader(
            dataset,
            batch_sampler=sampler,  # type: ignore[arg-type]  # a Ticket goes to __getitems__ as it is
            collate_fn=hand_over,  # type: ignore[arg-type]  # likewise a Batch, where torch expects a list
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            prefetch_factor=self.prefetch if self.num_workers else None,
            pin_memory=self.pin_memory and torch.accelerator.is_available(),
        )

    @cached_property
    def batch_augment(self) -> BatchAugment:
        """What is done to a batch on the device; `on_after_batch_transfer` calls it."""
        return BatchAugment(self.recipe, self.num_classes, self.mean, self.std, self.seed)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise on the device; in training also erase and mix. Lightning calls this for each batch."""
        trainer = self._trainer()
        if trainer.training:
            self._tracker.hand(batch.position, trainer.global_step)
            if self._feed is not None:
                self._feed.at(batch.position)
        return self.batch_augment(batch, training=trainer.training, rank=trainer.global_rank)

    def teardown(self, stage: str) -> None:
        """Stop fetching shards; Lightning calls this at the end of training, of an evaluation, and after errors."""
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def roll_back(self) -> None:
        """Go on with other orders and draws, after training has gone wrong: the attempt counts one up.

        Holds from the next train_dataloader on, and through loading an older checkpoint.
        """
        self._attempt += 1

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, after the last finished update: plain numbers."""
        if self._loaded is not None:
            return dict(self._loaded)
        standing = self._tracker.now(self._trainer().global_step)
        if standing.updates >= self._updates_per_epoch():
            standing = standing._replace(epoch=standing.epoch + 1, updates=0)
        return {**standing._asdict(), **self._order_facts()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Stand where the checkpoint stood. An attempt that is ahead of the checkpoint's is kept."""
        self._loaded = dict(state_dict)
        self._attempt = max(self._attempt, int(state_dict["attempt"]))

    @cached_property
    def _shuffle(self) -> Shuffle:
        return self.visits.shuffle(self.train_dataset)

    def _updates_per_epoch(self) -> int:
        """Of the trainer that this belongs to."""
        trainer = self._trainer()
        limit = trainer.limit_train_batches
        return self.updates_per_epoch(trainer.world_size, trainer.accumulate_grad_batches, limit)

    def _order_facts(self) -> dict[str, Any]:
        trainer = self._trainer()
        update = self.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        return self.visits.facts(self._shuffle, update)

    def _trainer(self) -> Any:
        if self.trainer is None:
            raise RuntimeError("ImageDataModule makes batches for a trainer: pass it as trainer.fit(datamodule=...)")
        return self.trainer


def _channels(key: str, values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ConfigError(f"data.{key} is {list(values)}: give 3 values, for red, green and blue.")
    return float(values[0]), float(values[1]), float(values[2])
