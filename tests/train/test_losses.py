"""Losses against loops over images and classes, and against timm's."""

from __future__ import annotations

import math

import pytest
import torch
from timm.loss import BinaryCrossEntropy
from torch import Tensor

from iwin.errors import ConfigError
from iwin.train.losses import Loss, hard_distillation, soft_distillation

B, C = 5, 7


def logits(seed: int = 0) -> Tensor:
    return 3 * torch.randn(B, C, generator=torch.Generator().manual_seed(seed))


def labels() -> Tensor:
    return torch.tensor([0, 6, 2, 2, 5])


def mixed() -> Tensor:
    """As mixup makes them: an image with its mirror in the batch."""
    one = torch.nn.functional.one_hot(labels(), C).float()
    return 0.7 * one + 0.3 * one.flip(0)


def distributions(targets: Tensor) -> list[list[float]]:
    if targets.ndim == 2:
        return targets.tolist()
    return [[float(c == label) for c in range(C)] for label in targets.tolist()]


def probabilities(row: list[float], temperature: float = 1.0) -> list[float]:
    shares = [math.exp(value / temperature) for value in row]
    return [share / sum(shares) for share in shares]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [labels(), mixed()], ids=["labels", "mixed"])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_bce_is_the_mean_over_images_and_classes(smoothing: float, targets: Tensor, threshold: float | None) -> None:
    total = 0.0
    for row, target in zip(logits().tolist(), distributions(targets), strict=True):
        for value, share in zip(row, target, strict=True):
            share = share * (1 - smoothing) + smoothing / C
            if threshold is not None:
                share = 1.0 if share > threshold else 0.0
            p = 1 / (1 + math.exp(-value))
            total -= share * math.log(p) + (1 - share) * math.log(1 - p)
    found = Loss("bce", smoothing, threshold)(logits(), targets)
    assert found.item() == pytest.approx(total / (B * C), rel=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_bce_is_timms_which_smooths_mixed_targets_before(threshold: float | None) -> None:
    timms = BinaryCrossEntropy(smoothing=0.1, target_threshold=threshold)
    ours = Loss("bce", 0.1, threshold)
    assert ours(logits(), labels()).item() == pytest.approx(timms(logits(), labels()).item())
    assert ours(logits(), mixed()).item() == pytest.approx(timms(logits(), mixed() * 0.9 + 0.1 / C).item())


@pytest.mark.parametrize("targets", [labels(), mixed()], ids=["labels", "mixed"])
def test_cross_entropy_is_of_smoothed_targets(targets: Tensor) -> None:
    total = 0.0
    for row, target in zip(logits().tolist(), distributions(targets), strict=True):
        for p, share in zip(probabilities(row), target, strict=True):
            total -= (share * 0.9 + 0.1 / C) * math.log(p)
    assert Loss(label_smoothing=0.1)(logits(), targets).item() == pytest.approx(total / B, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_distillation_is_the_divergence_from_the_teacher(temperature: float) -> None:
    total = 0.0
    for student, teacher in zip(logits().tolist(), logits(1).tolist(), strict=True):
        pairs = zip(probabilities(student, temperature), probabilities(teacher, temperature), strict=True)
        total += sum(t * math.log(t / s) for s, t in pairs)
    found = soft_distillation(logits(), logits(1), temperature)
    assert found.item() == pytest.approx(temperature**2 * total / B, rel=1e-5)
    assert soft_distillation(logits(), logits(), temperature).item() == pytest.approx(0, abs=1e-6)


def test_the_square_of_the_temperature_keeps_the_gradients_size() -> None:
    def size(temperature: float) -> float:
        student = logits().requires_grad_()
        soft_distillation(student, logits(1), temperature).backward()
        assert student.grad is not None
        return student.grad.norm().item()

    assert size(100.0) == pytest.approx(size(1000.0), rel=0.05)


def test_hard_distillation_takes_the_teachers_likeliest_class() -> None:
    total = 0.0
    for student, teacher in zip(logits().tolist(), logits(1).tolist(), strict=True):
        total -= math.log(probabilities(student)[teacher.index(max(teacher))])
    assert hard_distillation(logits(), logits(1)).item() == pytest.approx(total / B, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("bec", 0.1, None), r"task\.loss=bec: did you mean bce"),
        (("cross_entropy", 1.0, None), r"task\.label_smoothing must be .* below 1"),
        (("cross_entropy", 0.1, 0.2), r"task\.bce_target_threshold=0\.2 belongs to task\.loss=bce"),
        (("bce", 0.1, -0.2), r"task\.bce_target_threshold must be a number of at least 0"),
    ],
)
def test_what_cannot_be_a_loss_is_an_error(values: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Loss(*values)
