from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import auto_augment
from timm.data.auto_augment import AugmentOp

from iwin.data.policy import KeepOneBit, OnPillow, _operations, _timm_policy, policy
from iwin.errors import ConfigError
from iwin.runtime import seed_at

SIZE = (96, 120)
FILL = (124, 116, 104)
ARRAYS = [
    "rand-m9-mstd0.5-inc1",
    "rand-m9-mstd0.5",
    "rand-m9-n3-p0.8-tweights",
    "rand-m9-mstd0.5-t3a",
    "3a",
    "original",
]
NOTATIONS = [*ARRAYS, "originalr-mstd0.5", "v0", "v0r", "rand-m9-t3aw-inc1", "augmix-m3-w3", "augmix-m5-b1"]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    china = Image.fromarray(load_sample_images().images[0])
    return np.array(china.resize(SIZE[::-1], Image.Resampling.BICUBIC))


class Noted:
    """An operation's function that keeps its name where it is done."""

    def __init__(self, function: Any, name: str, done: list[str]) -> None:
        self.function, self.name, self.done = function, name, done

    def __call__(self, *args: Any, **settings: Any) -> Any:
        self.done.append(self.name)
        return self.function(*args, **settings)


def timms(notation: str, interpolation: str = "bicubic") -> tuple[Any, list[str]]:
    """timm's own policy on Pillow, but for the 0 bits on which it stops; and the names of what it does."""
    built = _timm_policy(notation, SIZE, FILL, interpolation)
    done: list[str] = []
    for operation in _operations(built):
        if operation.name.startswith("Posterize"):
            operation.level_fn = KeepOneBit(operation.level_fn)
        operation.aug_fn = Noted(operation.aug_fn, operation.name, done)
    return built, done


def next_draws() -> tuple[float, float]:
    return random.random(), np.random.random()  # noqa: NPY002  (what timm draws from)


def compared(notation: str, photo: np.ndarray, interpolation: str = "bicubic") -> Iterator[tuple[np.ndarray, set[str]]]:
    """The difference to timm's image over many draws, and the operations that were done."""
    ours, (theirs, done) = policy(notation, SIZE, FILL, interpolation), timms(notation, interpolation)
    for index in range(200):
        done.clear()
        seed_at(0, "test", index)
        expected = np.asarray(theirs(Image.fromarray(photo)))
        draws = next_draws()
        seed_at(0, "test", index)
        made = ours(photo)
        assert next_draws() == draws, "as much was drawn"
        yield np.abs(made.astype(int) - expected), set(done)


EXACT = {"AutoContrast", "Equalize", "Invert", "SolarizeAdd"}
EXACT_KINDS = ("Posterize", "Solarize", "Contrast", "Brightness")


@pytest.mark.parametrize("notation", ARRAYS)
def test_the_same_seeds_give_timms_images(notation: str, photo: np.ndarray) -> None:
    unturned = exact = 0
    for difference, done in compared(notation, photo):
        if all(name in EXACT or name.startswith(EXACT_KINDS) for name in done):
            assert not difference.any(), done
            exact += 1
        if "Rotate" not in done and "Equalize" not in done:
            # By one here and there, which a second operation may stretch.
            assert difference.mean() < 0.15, done
            unturned += 1
        assert difference.mean() < 4, done
    assert exact > 5
    assert unturned > 40


@pytest.mark.parametrize("notation", ["rand-m9-mstd0.5-inc1", "v0"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_on_average_the_images_are_timms_within_a_fraction_of_a_grey_level(
    notation: str, interpolation: str, photo: np.ndarray
) -> None:
    differences = [difference.mean() for difference, _ in compared(notation, photo, interpolation)]
    assert np.mean(differences) < (0.3 if interpolation == "bicubic" else 0.03)


@pytest.mark.parametrize("notation", ["augmix-m3-w3", "augmix-m5-b1", "augmix-m9-d2-mstd0.5"])
def test_augmix_is_exactly_timms(notation: str, photo: np.ndarray) -> None:
    done_at_all = set()
    for difference, done in compared(notation, photo):
        assert not difference.any()
        done_at_all |= done
    assert len(done_at_all) == 13


@pytest.mark.parametrize("notation", NOTATIONS)
def test_the_image_is_not_changed_and_the_result_is_one_like_it(notation: str, photo: np.ndarray) -> None:
    before = photo.copy()
    transform = policy(notation, SIZE, FILL, "bicubic")
    seed_at(0, "test")
    for _ in range(60):
        made = transform(photo)
        assert np.array_equal(photo, before)
        assert made.shape == photo.shape
        assert made.dtype == np.uint8
        assert made.flags.c_contiguous
        assert made.flags.writeable


@pytest.mark.parametrize(
    "notation",
    ["rand-m9-mstd0.5-inc1", "rand-m10-n4-p1.0-mstd101-inc1", "rand-m0-n8-p1.0", "rand-m30-mmax30-p1.0", *NOTATIONS],
)
def test_a_policy_survives_many_draws(notation: str) -> None:
    transform = policy(notation, (8, 8), FILL, "bicubic")
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    seed_at(0, "test")
    for _ in range(1000 if notation == "rand-m9-mstd0.5-inc1" else 200):
        transform(image)


@pytest.mark.parametrize("notation", ["rand-m9-mstd0.5-inc1", "rand-m0", "augmix-m10", "v0", "v0r", "originalr"])
def test_posterize_never_asks_for_0_bits(notation: str) -> None:
    built: Any = policy(notation, (8, 8), FILL, "bicubic")
    built = built.function if isinstance(built, OnPillow) else built
    levels = [operation.level_fn for operation in _operations(built) if operation.name.startswith("Posterize")]
    assert levels
    assert all(1 <= level(step / 10, {})[0] <= 8 for level in levels for step in range(101))


def test_posterize_keeps_one_bit_where_timm_would_ask_for_none() -> None:
    built: Any = policy("rand-m9-mstd0.5-inc1", (8, 8), FILL, "bicubic")
    posterize = next(operation for operation in built.ops if operation.name == "PosterizeIncreasing")
    assert [posterize.level_fn(level, {})[0] for level in (0, 5, 9, 10)] == [4, 2, 1, 1]


def test_lanczos_turns_images_by_bicubic(photo: np.ndarray) -> None:
    one, other = (policy("rand-m9-n4-p1.0", SIZE, FILL, interpolation) for interpolation in ("lanczos", "bicubic"))
    for index in range(20):
        seed_at(0, "test", index)
        made = one(photo)
        seed_at(0, "test", index)
        assert np.array_equal(made, other(photo))


def test_an_operation_of_a_later_timm_is_done_on_pillow(monkeypatch: pytest.MonkeyPatch, photo: np.ndarray) -> None:
    def mirror(image: Image.Image, share: float, fillcolor: Any, resample: Any) -> Image.Image:
        assert (share, fillcolor, resample) == (0.9, FILL, Image.Resampling.BICUBIC)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    monkeypatch.setitem(auto_augment.NAME_TO_OP, "Mirror", mirror)
    monkeypatch.setitem(auto_augment.LEVEL_TO_ARG, "Mirror", lambda level, _: (level / 10,))
    monkeypatch.setattr(auto_augment, "_RAND_3A", ["Mirror"])
    transform = policy("rand-m9-n1-p1.0-t3a", SIZE, FILL, "bicubic")
    assert np.array_equal(transform(photo), photo[:, ::-1])


@pytest.mark.parametrize("notation", ["rand-m9-mstd0.5-inc1", "original", "augmix-m3-w3"])
def test_a_policy_goes_to_another_process(notation: str, photo: np.ndarray) -> None:
    transform = policy(notation, SIZE, FILL, "bicubic")
    other = pickle.loads(pickle.dumps(transform))
    seed_at(0, "test")
    made = transform(photo)
    seed_at(0, "test")
    assert np.array_equal(other(photo), made)


def test_two_policies_do_not_share_settings(photo: np.ndarray) -> None:
    white, black = (policy("rand-m9-n8-p1.0", SIZE, fill, "nearest") for fill in ((255,) * 3, (0,) * 3))
    seed_at(0, "test")
    made = white(photo)
    seed_at(0, "test")
    assert not np.array_equal(black(photo), made)
    assert AugmentOp("Rotate").aug_fn is auto_augment.rotate


@pytest.mark.parametrize("notation", ["random", "rand-x9", "augmix-q3", "v1", "original-p1", "autoaugment"])
def test_an_unknown_notation_is_refused(notation: str) -> None:
    with pytest.raises(ConfigError, match=rf"augment.auto_augment is '{notation}', which timm does not understand"):
        policy(notation, (8, 8), FILL, "bicubic")
