"""What is done to a batch on the device: normalise it; in training also erase boxes and mix pairs of images.

Random erasing: Zhong et al., arXiv 1708.04896. Mixup: Zhang et al., arXiv 1710.09412. CutMix: Yun et al.,
arXiv 1905.04899.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn.functional import one_hot

from iwin.batch import Batch
from iwin.data.recipe import Recipe
from iwin.runtime import seed_at


class Normalize:
    """uint8 images -> (image / 255 - mean) / std in float32, in the same layout. mean, std: 3 values each."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        # A copy on each device it was used on: copying six numbers at every batch would wait for the device.
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        device = images_BCHW.device
        if device not in self._on:
            mean, std = (torch.tensor(one, device=device).view(1, 3, 1, 1) * 255 for one in (self.mean, self.std))
            self._on[device] = (mean, std)
        mean, std = self._on[device]
        return images_BCHW.to(torch.float32).sub_(mean).div_(std)


class Mix:
    """Mixup or CutMix of a batch with itself in reverse order, with one draw of lambda a batch.

    The same as timm's Mixup in "batch" mode without label smoothing, draw for draw, which refuses odd batches;
    in an odd batch the middle image meets itself, which leaves it and its target as they are.
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        self.recipe = recipe
        self.num_classes = num_classes

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mix in place: the images, and targets (B, classes) float32. Draws from NumPy's global generator."""
        targets = one_hot(labels_B, self.num_classes).to(torch.float32)
        recipe = self.recipe
        if np.random.rand() >= recipe.mixup_prob:  # noqa: NPY002 - seed_at seeds this generator
            return images_BCHW, targets
        cut = recipe.cutmix > 0 and (recipe.mixup == 0 or np.random.rand() < recipe.switch_prob)  # noqa: NPY002
        alpha = recipe.cutmix if cut else recipe.mixup
        kept = float(np.random.beta(alpha, alpha))  # noqa: NPY002
        if cut:
            rows, columns = _box(images_BCHW.shape[-2], images_BCHW.shape[-1], kept)
            images_BCHW[:, :, rows, columns] = images_BCHW[:, :, rows, columns].flip(0)
            # The box may reach over the border, so the share that was kept is counted and not taken as drawn.
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            kept = 1 - area / (images_BCHW.shape[-2] * images_BCHW.shape[-1])
        else:
            other = images_BCHW.flip(0).mul_(1 - kept)
            images_BCHW.mul_(kept).add_(other)
        return images_BCHW, targets * kept + targets.flip(0) * (1 - kept)


def _box(height: int, width: int, kept: float) -> tuple[slice, slice]:
    """A box of share 1 - kept of the image, of its aspect ratio, around a uniform centre, cut at the borders."""
    ratio = float(np.sqrt(1 - kept))
    spans = []
    for side in (height, width):
        extent = int(side * ratio)
        centre = int(np.random.randint(0, side))  # noqa: NPY002
        spans.append(slice(max(0, centre - extent // 2), min(side, centre + (extent + 1) // 2)))
    return spans[0], spans[1]


class BatchAugment:
    """A batch as the workers make it -> as the model takes it.

    num_classes: of the distributions that mixing makes of labels. seed: of the run; the draws are a function of
    (seed, position, rank).
    """

    def __init__(
        self, recipe: Recipe, num_classes: int, mean: Sequence[float], std: Sequence[float], seed: int
    ) -> None:
        self.recipe = recipe
        self.normalize = Normalize(mean, std)
        self.mix = Mix(recipe, num_classes) if recipe.mixup > 0 or recipe.cutmix > 0 else None
        self.seed = seed

    def __call__(self, batch: Batch, *, training: bool, rank: int) -> Batch:
        """Float images, normalised. In training also erased and mixed: targets (B, classes) where the recipe mixes."""
        images, targets = self.normalize(batch.images), batch.targets
        recipe = self.recipe
        if training and (recipe.erase_prob > 0 or self.mix is not None):
            seed_at(self.seed, "mixup", *batch.position, rank)
            if recipe.erase_prob > 0:
                RandomErasing(
                    recipe.erase_prob, mode=recipe.erase_mode, max_count=recipe.erase_count, device=images.device
                )(images)
            if self.mix is not None:
                images, targets = self.mix(images, targets)
        return batch._replace(images=images, targets=targets)
