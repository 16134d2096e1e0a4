"""What each stage and each block is told: map, window, padding, convolution. Decided once, before building.

The rules are the released models' (and hold the printed counts): a window is M, or the map's shorter
side where that is smaller; a block has a local mixer unless its attention already sees the whole map.
Models for changing sizes (dense tasks) never shrink a window and leave the local mixer out in the last
stage, whatever the size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iwin.errors import ConfigError, whole
from iwin.models.windows import padding

PATCH = 4
PAPER_WINDOWS = {224: 7, 384: 12, 512: 16, 1024: 16}
# The keys of a model's configuration that decide its stages, besides img_size.
PLAN_KEYS = ("window_size", "embed_dim", "depths", "num_heads", "kernel_sizes", "dynamic")
AUTO_WINDOWS = range(7, 17)


@dataclass(frozen=True)
class BlockSpec:
    """What a mixer may know about the block that it stands in. May grow without touching any mixer.

    dim, heads: channels, attention heads. stage, index: the stage, and the block within it, from 0.
    window: side of an attention window in tokens. kernel: side of a local mixer's kernel.
    feature_size: (H, W) of the map, or None where it changes from call to call.
    positions: configurations of the position modes that live in the attention.
    mask_padding: whether attention must not see the tokens that only fill up a map.
    attn_drop, proj_drop: dropout of attention weights and of a mixer's output.
    """

    dim: int
    heads: int
    window: int
    kernel: int | None = 3
    feature_size: tuple[int, int] | None = None
    stage: int = 0
    index: int = 0
    positions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    qkv_bias: bool = True
    mask_padding: bool = True
    attn_drop: float = 0.0
    proj_drop: float = 0.0


@dataclass(frozen=True)
class StagePlan:
    """One stage. size: (H, W) of its map, None where it changes; padded: what attention works on.

    is_global: whether one window covers the map (for changing sizes: whether it counts as doing so).
    kernel: of the local mixers beside an attention that is not global.
    """

    stage: int
    dim: int
    heads: int
    depth: int
    size: tuple[int, int] | None
    window: int
    padded: tuple[int, int] | None
    is_global: bool
    kernel: int | None

    @property
    def added_tokens(self) -> int:
        """Tokens that padding adds to the map for the attention."""
        if self.size is None or self.padded is None:
            return 0
        return self.padded[0] * self.padded[1] - self.size[0] * self.size[1]


def image_size(value: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) in pixels from one side or two. ConfigError below one patch or for anything else."""
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or not all(isinstance(s, int) and not isinstance(s, bool) for s in sides):
        raise ConfigError(f"img_size must be a whole number of pixels or [height, width], got {value!r}")
    if min(sides) < PATCH:
        raise ConfigError(f"img_size {value} is smaller than one patch of {PATCH} x {PATCH} pixels")
    return sides[0], sides[1]


def map_sizes(img_size: tuple[int, int], stages: int) -> list[tuple[int, int]]:
    """(H, W) of every stage's map: the stem and each downsampling round an odd side up."""
    sides = [tuple(-(-s // PATCH) for s in img_size)]
    for _ in range(stages - 1):
        sides.append(tuple(-(-s // 2) for s in sides[-1]))
    return [(h, w) for h, w in sides]


def resolve_window(window_size: int | str, img_size: tuple[int, int], stages: int) -> int:
    """The window side M: a number as it is; `auto` as the paper has it for its image sizes.

    For other sizes `auto` takes the side from 7 to 16 with the least padding summed over the stages,
    the largest of equals.
    """
    if window_size != "auto":
        if isinstance(window_size, str):
            raise ConfigError(f"window_size must be a whole number or auto, got {window_size!r}")
        return whole("window_size", window_size, 1)
    if img_size[0] == img_size[1] and img_size[0] in PAPER_WINDOWS:
        return PAPER_WINDOWS[img_size[0]]

    def added(window: int) -> int:
        total = 0
        for height, width in map_sizes(img_size, stages):
            below, right = padding((height, width), min(window, height, width))
            total += (height + below) * (width + right) - height * width
        return total

    return min(AUTO_WINDOWS, key=lambda window: (added(window), -window))


def plan_stages(
    *,
    img_size: tuple[int, int],
    window_size: int | str,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    kernel_sizes: int | Sequence[int | None] | None,
    dynamic: bool,
) -> list[StagePlan]:
    """The stages of a backbone. ConfigError for numbers that cannot be a model, with the key's name."""
    for key, values in (("depths", depths), ("num_heads", num_heads)):
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise ConfigError(f"{key} must be a list with a number for each stage, got {values}")
        for value in values:
            whole(key, value, 1)
    whole("embed_dim", embed_dim, 1)
    stages = len(depths)
    if stages == 0:
        raise ConfigError("depths must have at least one stage, got an empty list")
    if len(num_heads) != stages:
        raise ConfigError(f"num_heads must have one number a stage: {stages} by depths, got {list(num_heads)}")
    kernels = list(kernel_sizes) if isinstance(kernel_sizes, Sequence) else [kernel_sizes] * stages
    if len(kernels) != stages:
        raise ConfigError(f"kernel_sizes must be one number or one a stage: {stages} by depths, got {kernels}")
    for kernel in kernels:
        if kernel is not None and whole("kernel_sizes", kernel, 1) % 2 == 0:
            raise ConfigError(f"kernel_sizes must be odd numbers or null, got {kernels}")
    window = resolve_window(window_size, img_size, stages)
    plans = []
    for stage, size in enumerate(map_sizes(img_size, stages)):
        dim, heads = embed_dim * 2**stage, num_heads[stage]
        if heads < 1 or dim % heads:
            raise ConfigError(f"num_heads: stage {stage} has {dim} channels, no multiple of {heads} heads")
        side = window if dynamic else min(window, *size)
        below, right = padding(size, side)
        plans.append(
            StagePlan(
                stage=stage,
                dim=dim,
                heads=heads,
                depth=depths[stage],
                size=None if dynamic else size,
                window=side,
                padded=None if dynamic else (size[0] + below, size[1] + right),
                is_global=stage == stages - 1 if dynamic else max(size) <= side,
                kernel=kernels[stage],
            )
        )
    return plans
