"""Parameters and FLOPs of a model, counted on the meta device: nothing is computed, no memory is used.

FLOPs are multiply-adds, each counted once: half of what torch's flop counter says. It counts convolutions,
linear layers and the two products of attention. Norms, softmax, activations, biases and additions are not
counted; the papers' own counts add one for each element that a LayerNorm sees, which is under 0.3 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Counts(NamedTuple):
    """parameters: all of them. flops: multiply-adds of one image's forward pass."""

    parameters: int
    flops: int


def count(build: Callable[[], nn.Module], img_size: tuple[int, int], in_chans: int = 3) -> Counts:
    """The counts of the model that `build` makes, for an image of (height, width) pixels."""
    with torch.device("meta"):
        model = build()
    return count_model(model, img_size, in_chans)


def count_model(model: nn.Module, img_size: tuple[int, int], in_chans: int = 3) -> Counts:
    """The counts of a model that is on the meta device already."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, in_chans, *img_size, device="meta"))
    return Counts(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)
