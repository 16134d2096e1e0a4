"""Ours and three other ways from the same JPEGs to the same batches, each as its users write it.

All make batches of `batch` images without end, in the calling process, and what they make can go to a device as it
is. Ours and timm's train script, with its own loader, normalise on the device, so that is not in their batches; the
others normalise before.
Random erasing is in none: timm and ours do it on the device, and without it the others have less to do. The policy
is timm's in the others too, as torchvision's RandAugment is another one. webdataset's stream is not shuffled again.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import webdataset
from PIL import Image
from timm.data import ImageDataset, create_transform
from timm.data.auto_augment import rand_augment_transform
from timm.data.loader import fast_collate
from timm.data.transforms import str_to_interp_mode, str_to_pil_interp
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from iwin.conf import read_part
from iwin.data.augment import EvalTransform, TrainTransform
from iwin.data.mixup import Normalize
from iwin.data.module import hand_over
from iwin.data.order import GlobalShuffle
from iwin.data.policy import KeepOneBit
from iwin.data.recipe import Recipe
from iwin.data.sampler import TrainSampler
from iwin.data.shards import ShardDataset, ShardFolder
from iwin.tools.bench.images import BenchImages

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (124, 116, 104)  # the mean, as a colour
SEED = 0


class Job(NamedTuple):
    """What is done to the images. training: with the recipe's draws, or as in evaluation."""

    name: str
    recipe: Recipe
    training: bool


# A way: batches without end, as (images, labels).
Way = Callable[[BenchImages, Job, int], Iterator[tuple[Tensor, Tensor]]]


def jobs() -> tuple[Job, ...]:
    """What is measured, of the recipes in conf/augment."""
    simple, deit = (Recipe.read(read_part("augment", name)) for name in ("simple", "deit"))
    simple = dataclasses.replace(simple, scale=deit.scale)  # the usual range from scratch; simple is for fine-tuning
    return Job("crop and flip", simple, True), Job("DeiT recipe", deit, True), Job("evaluation", deit, False)


def our_dataset(images: BenchImages, job: Job) -> ShardDataset:
    """The images as training or evaluation opens them."""
    if job.training:
        return ShardDataset(
            ShardFolder(images.shards), "train-*.tar", TrainTransform((SIDE, SIDE), job.recipe, MEAN), SEED
        )
    return ShardDataset(ShardFolder(images.shards), "train-*.tar", EvalTransform((SIDE, SIDE), job.recipe), None)


def our_sampler(length: int, batch: int, epoch: int) -> TrainSampler:
    """Whole batches in random order; in evaluation too, as the others have them then."""
    shuffle = GlobalShuffle(length)
    return TrainSampler(shuffle, batch_size=batch, world=1, rank=0, accumulation=1, seed=SEED, epoch=epoch)


def ours(images: BenchImages, job: Job, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """iwin: indexed shards, uint8 batches, channels last."""
    dataset = our_dataset(images, job)
    for epoch in itertools.count():
        sampler: Any = our_sampler(len(dataset), batch, epoch)
        collate: Any = hand_over
        for made in DataLoader(dataset, batch_sampler=sampler, collate_fn=collate):
            yield made.images, made.targets


def ours_normalised(images: BenchImages, job: Job, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same, and normalised to float32 here instead of on the device."""
    normalize = Normalize(MEAN, STD)
    for pixels, labels in ours(images, job, batch):
        yield normalize(pixels), labels


def by_torchvision(images: BenchImages, job: Job, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """torchvision: ImageFolder, its transforms on Pillow images, normalised float batches of the default collate."""
    dataset = ImageFolder(str(images.folder), torchvision_transform(job))
    return _without_end(DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True))


def by_timm(images: BenchImages, job: Job, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """timm's create_transform over torchvision's ImageFolder: normalised float batches of the default collate."""
    dataset = ImageFolder(str(images.folder), timm_transform(job, prefetcher=False))
    return _without_end(DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True))


def by_timm_loader(images: BenchImages, job: Job, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """timm as its train script has it: its own data set, create_transform for its prefetcher, uint8 batches."""
    dataset = ImageDataset(str(images.folder), transform=timm_transform(job, prefetcher=True))
    return _without_end(DataLoader(dataset, batch_size=batch, shuffle=True, drop_last=True, collate_fn=fast_collate))


def by_webdataset(images: BenchImages, job: Job, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """webdataset: the tars as a stream, decoded by Pillow, then as torchvision."""
    tars = [str(path) for path in sorted(images.shards.glob("train-*.tar"))]
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(torchvision_transform(job), int)
    )
    return _without_end(DataLoader(dataset, batch_size=batch, drop_last=True))


def _without_end(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


OURS = "ours"
WAYS: dict[str, Way] = {
    OURS: ours,
    "ours, normalising on this core": ours_normalised,
    "timm's transform, ImageFolder": by_timm,
    "timm's transform and loader": by_timm_loader,
    "torchvision, ImageFolder": by_torchvision,
    "webdataset": by_webdataset,
}


def torchvision_transform(job: Job) -> Callable[[Image.Image], Tensor]:
    """The job in torchvision's classes, with timm's policy: a Pillow image -> (3, H, W) float32, normalised."""
    recipe = job.recipe
    interpolation = str_to_interp_mode(recipe.interpolation)
    steps: list[Any]
    if job.training:
        assert recipe.scale is not None, "the recipes that are measured crop"
        steps = [
            transforms.RandomResizedCrop(SIDE, recipe.scale, recipe.ratio, interpolation),
            transforms.RandomHorizontalFlip(recipe.hflip),
        ]
        if recipe.auto_augment is not None:
            steps.append(timm_policy(recipe.auto_augment, recipe.interpolation))
    else:
        steps = [
            transforms.Resize(math.floor(SIDE / recipe.eval_resize), interpolation),
            transforms.CenterCrop(SIDE),
        ]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def timm_transform(job: Job, *, prefetcher: bool) -> Callable[[Image.Image], Tensor]:
    """The job by timm's create_transform: a Pillow image -> (3, H, W), uint8 for its prefetcher, else normalised."""
    recipe = job.recipe
    if not job.training:
        return create_transform(
            SIDE,
            interpolation=recipe.interpolation,
            crop_pct=recipe.eval_resize,
            mean=MEAN,
            std=STD,
            use_prefetcher=prefetcher,
        )
    jitter: Any = recipe.color_jitter or None  # what its signature leaves out, and its code asks for
    transform = create_transform(
        SIDE,
        is_training=True,
        scale=recipe.scale,
        ratio=recipe.ratio,
        hflip=recipe.hflip,
        color_jitter=jitter,
        auto_augment=recipe.auto_augment,
        interpolation=recipe.interpolation,
        mean=MEAN,
        std=STD,
        use_prefetcher=prefetcher,
    )
    for step in transform.transforms:
        if hasattr(step, "ops"):
            _keep_one_bit(step)
    return transform


def timm_policy(notation: str, interpolation: str) -> Any:
    """timm's RandAugment, with the settings that its create_transform gives it: Pillow images to Pillow images."""
    settings = {
        "translate_const": int(SIDE * 0.45),
        "img_mean": FILL,
        "interpolation": str_to_pil_interp(interpolation),
    }
    policy = rand_augment_transform(notation, settings)
    _keep_one_bit(policy)
    return policy


def _keep_one_bit(policy: Any) -> None:
    """timm asks Pillow to posterize to 0 bits in some draws, and newer versions of Pillow refuse that."""
    for operation in policy.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = KeepOneBit(operation.level_fn)
