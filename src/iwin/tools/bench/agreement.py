"""How near our pixels are to those of Pillow and timm, in grey levels of 0 to 255."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from timm.data.transforms import str_to_pil_interp

from iwin.data.augment import random_box
from iwin.data.decode import decode
from iwin.data.policy import policy
from iwin.data.recipe import Recipe
from iwin.data.shards import ShardDataset
from iwin.runtime import seed_at
from iwin.tools.bench.images import BenchImages
from iwin.tools.bench.pipelines import FILL, SEED, SIDE, Job, jobs, our_dataset, timm_policy, timm_transform

Pair = tuple[np.ndarray, np.ndarray]  # ours and the other's pixels, uint8


class Difference(NamedTuple):
    """Over all values of all images: the mean and the largest absolute difference, and the share that differs."""

    mean: float
    largest: int
    share: float

    @classmethod
    def between(cls, pairs: Iterable[Pair]) -> Difference:
        """Of pairs of uint8 arrays, each of one shape."""
        absolute = [np.abs(ours.astype(np.int16) - theirs) for ours, theirs in pairs]
        values = np.concatenate([one.ravel() for one in absolute])
        return cls(float(values.mean()), int(values.max()), float((values > 0).mean()))


def all_differences(images: BenchImages, number: int) -> dict[str, dict[str, Any]]:
    """Each comparison's Difference as plain values, and `against` what it is; over the first `number` images."""
    _, training, evaluating = jobs()
    crops = Difference.between(_crops(our_dataset(images, training), training.recipe, number))
    whole = Difference.between(_evaluations(our_dataset(images, evaluating), evaluating, number))
    found = {
        "training crop": {"against": "Pillow", **crops._asdict()},
        "evaluation": {"against": "timm", **whole._asdict()},
    }
    dataset = our_dataset(images, evaluating)
    pictures = [dataset.transform(dataset.encoded(index)) for index in range(number)]
    for name, ours, theirs in _operations(training.recipe):
        pairs = (_drawn(ours, theirs, picture, place) for place, picture in enumerate(pictures))
        found[name] = {"against": "timm", **Difference.between(pairs)._asdict()}
    return found


def _operations(recipe: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """The recipe's RandAugment and then each of its operations, done always: ours on arrays, timm's on Pillow's."""
    assert recipe.auto_augment is not None, "the recipe that is measured has a policy"
    ours: Any = policy(recipe.auto_augment, (SIDE, SIDE), FILL, recipe.interpolation)
    theirs = timm_policy(recipe.auto_augment, recipe.interpolation)
    yield "RandAugment", ours, theirs
    for our_one, their_one in zip(ours.ops, theirs.ops, strict=True):
        assert our_one.name == their_one.name, f"{our_one.name} stands in the place of {their_one.name}"
        our_one.prob = their_one.prob = 1
        yield our_one.name, our_one, their_one


def _drawn(ours: Any, theirs: Any, picture: np.ndarray, place: int) -> Pair:
    """What the two make of a picture at the same draws."""
    seed_at(SEED, "bench", place)
    made = ours(picture)
    seed_at(SEED, "bench", place)
    return made, np.asarray(theirs(Image.fromarray(picture)))


def _crops(dataset: ShardDataset, recipe: Recipe, number: int) -> Iterator[Pair]:
    """Decoding, the random crop and its resize, against Pillow's of the same boxes.

    Newer versions of Pillow resize a tall box along its columns first, and torch every box along its rows. Both
    clip in between, so that what differs most are single values beside the brightest and the darkest.
    """
    assert recipe.scale is not None, "the recipes that are measured crop"
    for index in range(number):
        image = dataset.encoded(index)
        seed_at(SEED, "bench", index)
        box = random_box(image.size, recipe.scale, recipe.ratio)
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        theirs = decode(dataset.read(index), dataset.key(index)).crop(corners)
        theirs = theirs.resize((SIDE, SIDE), str_to_pil_interp(recipe.interpolation))
        yield image.resized(box, (SIDE, SIDE), recipe.interpolation), np.asarray(theirs)


def _evaluations(dataset: ShardDataset, job: Job, number: int) -> Iterator[Pair]:
    """The whole of evaluation, against timm's transform of Pillow's images."""
    theirs = timm_transform(job, prefetcher=True)
    for index in range(number):
        image = decode(dataset.read(index), dataset.key(index))
        yield dataset.transform(dataset.encoded(index)), theirs(image).permute(1, 2, 0).numpy()
