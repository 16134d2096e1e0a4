"""Window attention, plain or shifted (Swin Transformer, Section 3.2).

Shapes: B batch, H W map, C channels, G windows of an image, N tokens of a window, h heads, d channels a head.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from iwin.models.attend import attend
from iwin.models.spec import BlockSpec
from iwin.models.targets import build_part
from iwin.models.windows import (
    Split,
    block,
    inside,
    key_mask,
    merge_windows,
    pad_end,
    padding,
    regions,
    separation_mask,
    split_windows,
    window_coordinates,
)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of M x M neighbours (W-MSA), or of the shifted map (SW-MSA).

    shift: roll the map back by M // 2 first, and let only tokens that were neighbours before see each
        other. There is no shift where the window covers the map's shorter side.

    A map that is no multiple of M is padded with zeros right and below for the attention, and cropped
    after. The padded tokens are hidden from the others if the spec says mask_padding; the released
    dense models do not hide them.
    """

    def __init__(self, spec: BlockSpec, shift: bool = False) -> None:
        super().__init__()
        self.fixed_mask: Tensor | None
        self.fixed_coordinates: Tensor | None
        self.heads = spec.heads
        self.attn_drop = spec.attn_drop
        self.shifted = shift
        self.qkv = nn.Linear(spec.dim, 3 * spec.dim, bias=spec.qkv_bias)
        self.proj = nn.Linear(spec.dim, spec.dim)
        self.proj_drop = nn.Dropout(spec.proj_drop)
        self.positions = nn.ModuleDict({name: build_part(part, spec) for name, part in spec.positions.items()})
        self._arrange(spec)

    def _arrange(self, spec: BlockSpec) -> None:
        self.window = spec.window
        self.mask_padding = spec.mask_padding
        fits = spec.feature_size is not None and min(spec.feature_size) <= spec.window
        self.shift = spec.window // 2 if self.shifted and not fits else 0
        # For a fixed size the mask and the coordinates are made once; for changing ones in each call.
        self.fixed_size = spec.feature_size
        mask = coordinates = None
        if spec.feature_size is not None:
            device = self.qkv.weight.device
            padded = [n + p for n, p in zip(spec.feature_size, padding(spec.feature_size, self.window), strict=True)]
            mask = self.mask(padded, spec.feature_size, device)
            coordinates = self.coordinates(padded, device)
        self.register_buffer("fixed_mask", mask, persistent=False)
        self.register_buffer("fixed_coordinates", coordinates, persistent=False)

    def set_spec(self, spec: BlockSpec) -> None:
        """Take another window and map size; the position modes resize themselves."""
        for position in self.positions.values():
            cast(Any, position).set_spec(spec)
        self._arrange(spec)

    def splits(self) -> tuple[Split, Split]:
        """How rows and columns are cut into windows."""
        return block(self.window), block(self.window)

    def mask(self, padded: list[int], size: tuple[int, int], device: torch.device) -> Tensor | None:
        """(G, N or 1, N) bool, True where a query may see a key, for a map of `size` padded to `padded`."""
        mask = None
        if self.shift:
            mask = separation_mask(regions(padded, self.window, self.shift, device), self.splits())
        if self.mask_padding and tuple(padded) != tuple(size):
            real = inside(padded, size, device)
            if self.shift:
                real = torch.roll(real, (-self.shift, -self.shift), (0, 1))
            seen = key_mask(real, self.splits())
            # Under a shift a region may hold padding alone. Its tokens are cropped afterwards, but must see
            # something: the softmax of nothing has no gradient.
            mask = seen if mask is None else mask & seen | ~(mask & seen).any(-1, keepdim=True)
        return mask

    def coordinates(self, padded: list[int], device: torch.device) -> Tensor | None:
        """(N, 2) places of a window's tokens on the map; None where no position mode asks for them."""
        return window_coordinates(self.splits(), padded).to(device) if self.positions else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        _, height, width, channels = x.shape
        x = pad_end(x, padding((height, width), self.window))
        padded = list(x.shape[1:3])
        if self.fixed_size is not None:
            mask, coordinates = self.fixed_mask, self.fixed_coordinates
        else:
            mask, coordinates = self.mask(padded, (height, width), x.device), self.coordinates(padded, x.device)
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x_WNC = split_windows(x, self.splits())
        tokens = x_WNC.shape[1]
        qkv = self.qkv(x_WNC).view(-1, tokens, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B * G, h, N, d)
        bias = None
        for position in self.positions.values():
            q, k, more = position(q, k, coordinates)
            if more is not None:
                bias = more if bias is None else bias + more
        x_WNC = attend(q, k, v, bias, mask, self.attn_drop if self.training else 0.0)
        x_WNC = self.proj_drop(self.proj(x_WNC.transpose(1, 2).reshape(-1, tokens, channels)))
        x = merge_windows(x_WNC, self.splits(), padded)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        return x[:, :height, :width]
