from __future__ import annotations

import pytest
import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from tiny_images import recipe_keys

from iwin.batch import Batch, Position
from iwin.data.mixup import BatchAugment, Mix, Normalize
from iwin.data.recipe import Recipe
from iwin.runtime import seed_at

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def recipe(**changes) -> Recipe:
    return Recipe.read(recipe_keys("deit", **changes))


HERE = Position(0, 1, 2, 3)


def batch(count: int, position: Position = HERE) -> Batch:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, 12, 10), generator=generator, dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    return Batch(images, torch.arange(count) % 5, torch.arange(count), position)


@pytest.mark.parametrize(
    "changes",
    [{}, {"mixup": 0.0}, {"cutmix": 0.0}, {"mixup_prob": 0.5}, {"switch_prob": 1.0}, {"cutmix": 0.2, "mixup": 3.0}],
)
def test_an_even_batch_is_mixed_as_timm_mixes_it(changes: dict) -> None:
    keys = recipe(**changes)
    mix = Mix(keys, 5)
    theirs = Mixup(
        keys.mixup, keys.cutmix, prob=keys.mixup_prob, switch_prob=keys.switch_prob, label_smoothing=0, num_classes=5
    )
    seen = set()
    for seed in range(40):
        images, labels = torch.randn(6, 3, 12, 10), torch.randint(0, 5, (6,))
        seed_at(seed, "test")
        mine, targets = mix(images.clone(), labels)
        seed_at(seed, "test")
        other, other_targets = theirs(images.clone(), labels)
        assert torch.equal(mine, other)
        assert torch.allclose(targets, other_targets, atol=1e-6)
        seen.add(bool(torch.equal(mine, images)))
    assert False in seen
    assert True in seen or keys.mixup_prob == 1


@pytest.mark.parametrize("changes", [{"mixup": 0.0}, {"cutmix": 0.0}])
@pytest.mark.parametrize("count", [1, 5])
def test_an_odd_batch_keeps_its_middle_and_mixes_the_rest_in_pairs(changes: dict, count: int) -> None:
    images, labels = torch.randn(count, 3, 12, 10), torch.arange(count)
    seed_at(3, "test")
    mixed, targets = Mix(recipe(**changes), 5)(images.clone(), labels)
    middle = count // 2
    assert torch.allclose(mixed[middle], images[middle], atol=1e-6)
    assert torch.allclose(targets[middle], torch.eye(5)[middle])
    assert torch.allclose(targets.sum(1), torch.ones(count))
    for i in range(count):
        if i != middle:
            kept = targets[i, i]
            assert 0 <= kept <= 1
            assert torch.allclose(targets[i, count - 1 - i], 1 - kept)
            share = (mixed[i] == images[i]).float().mean()
            if "mixup" in changes:  # CutMix: the target is the share of the pixels
                assert torch.allclose(share, kept)
            else:
                assert torch.allclose(mixed[i], kept * images[i] + (1 - kept) * images[count - 1 - i], atol=1e-6)


def test_normalising_is_division_by_255_then_mean_and_deviation() -> None:
    images = batch(4).images
    made = Normalize(MEAN, STD)(images)
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (MEAN, STD))
    assert made.dtype == torch.float32
    assert torch.allclose(made, (images.float() / 255 - mean) / std, atol=1e-6)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_is_normalised_and_nothing_else() -> None:
    augment = BatchAugment(recipe(erase_prob=1.0), 5, MEAN, STD, seed=0)
    given = batch(5)
    made = augment(given, training=False, rank=0)
    assert torch.equal(made.images, Normalize(MEAN, STD)(given.images))
    assert torch.equal(made.targets, given.targets)
    assert made.position == given.position


def test_labels_stay_labels_where_nothing_is_mixed() -> None:
    augment = BatchAugment(recipe(mixup=0.0, cutmix=0.0), 5, MEAN, STD, seed=0)
    made = augment(batch(4), training=True, rank=0)
    assert made.targets.tolist() == [0, 1, 2, 3]
    assert made.targets.dtype == torch.int64


def test_erasing_is_timms_with_the_keys_of_the_recipe() -> None:
    keys = recipe(mixup=0.0, cutmix=0.0, erase_prob=0.7, erase_mode="rand", erase_count=3)
    made = BatchAugment(keys, 5, MEAN, STD, seed=4)(batch(8), training=True, rank=2)
    expected = Normalize(MEAN, STD)(batch(8).images)
    seed_at(4, "mixup", 0, 1, 2, 3, 2)
    RandomErasing(0.7, mode="rand", max_count=3, device="cpu")(expected)
    assert torch.equal(made.images, expected)
    assert not torch.equal(made.images, Normalize(MEAN, STD)(batch(8).images))


def test_draws_are_a_function_of_seed_position_and_rank_alone() -> None:
    def made(seed: int, rank: int, position: Position) -> torch.Tensor:
        return BatchAugment(recipe(), 5, MEAN, STD, seed=seed)(batch(6, position), training=True, rank=rank).images

    assert torch.equal(made(0, 0, HERE), made(0, 0, HERE))
    others = [made(1, 0, HERE), made(0, 1, HERE)]
    others += [made(0, 0, HERE._replace(**{name: 9})) for name in Position._fields]
    assert not any(torch.equal(made(0, 0, HERE), other) for other in others)
