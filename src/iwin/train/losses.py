"""What is minimised: of labels or of the class distributions that mixup makes, and of a teacher's opinion.

B images, C classes. Logits are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iwin.errors import ConfigError, near_names, number

LOSSES = ("cross_entropy", "bce")


@dataclass(frozen=True)
class Loss:
    """The mean loss of a batch.

    name: cross_entropy; or bce, a binary cross-entropy for each class, as if an image could have several (Beyer et
        al., arXiv 2006.07159; Wightman et al., arXiv 2110.00476), whose mean is over images and classes.
    label_smoothing: the share of a target that is spread over all classes; also on the distributions that mixup
        makes, which equals mixing smoothed labels.
    bce_target_threshold: with bce alone, classes whose smoothed target is above it count as present in full and the
        others as absent; None leaves targets as they are.

    ConfigError for values that cannot be used.
    """

    name: str = "cross_entropy"
    label_smoothing: float = 0.1
    bce_target_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise ConfigError(f"task.loss={self.name}: {near_names(self.name, LOSSES)}")
        number("task.label_smoothing", self.label_smoothing, 0, below=1)
        if self.bce_target_threshold is not None:
            number("task.bce_target_threshold", self.bce_target_threshold, 0, below=1)
            if self.name != "bce":
                raise ConfigError(
                    f"task.bce_target_threshold={self.bce_target_threshold} belongs to task.loss=bce, and the loss is "
                    f"{self.name}: set it to null"
                )

    def __call__(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        """targets: (B,) int64 labels, or (B, C) float32 class distributions. A tensor without dimensions."""
        if self.name == "cross_entropy":
            return F.cross_entropy(logits_BC, targets, label_smoothing=self.label_smoothing)
        classes = logits_BC.shape[1]
        targets_BC = F.one_hot(targets, classes).float() if targets.ndim == 1 else targets
        targets_BC = targets_BC * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.bce_target_threshold is not None:
            targets_BC = (targets_BC > self.bce_target_threshold).float()
        return F.binary_cross_entropy_with_logits(logits_BC, targets_BC)


def soft_distillation(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """The divergence KL(teacher || student) of the distributions at a temperature, times its square: the mean over
    images (Hinton et al., arXiv 1503.02531, Section 2). The square keeps the gradients' size."""
    student = torch.log_softmax(student_BC / temperature, dim=1)
    teacher = torch.log_softmax(teacher_BC / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def hard_distillation(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """Cross-entropy with the class that the teacher finds likeliest, unsmoothed (Touvron et al., arXiv 2012.12877)."""
    return F.cross_entropy(student_BC, teacher_BC.argmax(dim=1))
