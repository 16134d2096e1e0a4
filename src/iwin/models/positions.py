"""Position modes: none, absolute, relative table, log-CPB, rotary. Each knows how to resize itself.

An absolute embedding is added to the tokens after the stem. The others live in an attention mixer:
`forward(q, k, coordinates)` returns the queries and keys, turned or not, and a bias for the scores or
None. `coordinates` are the real places of a window's tokens on the map (windows.window_coordinates);
what uses distances must use those, since under dilation neighbours in a window are not neighbours.

Shapes: h heads, M side of a window, N = M * M, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iwin.errors import ConfigError
from iwin.models.spec import BlockSpec


def resize_grid(table_HWC: Tensor, size: Sequence[int]) -> Tensor:
    """A (H, W, C) table at another size, by bicubic interpolation in float32."""
    if tuple(table_HWC.shape[:2]) == tuple(size):
        return table_HWC
    grid = table_HWC.detach().float().permute(2, 0, 1)[None]
    grid = F.interpolate(grid, size=tuple(size), mode="bicubic", align_corners=False)
    return grid[0].permute(1, 2, 0).to(table_HWC.dtype)


class Absolute(nn.Module):
    """A learned embedding on the tokens after the stem (Swin, Section 3.2; Iwin, Table VII).

    `table` is (1, H, W, C). A map of another size than it was built for gets the table interpolated.
    """

    applies_to = "tokens"

    def __init__(self, dim: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(1, *size, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return x_BHWC + self.resized(self.table, x_BHWC.shape[1:3])

    @staticmethod
    def resized(table: Tensor, size: Sequence[int]) -> Tensor:
        """The table (1, H, W, C) for maps of `size`; it stays part of the graph."""
        if tuple(table.shape[1:3]) == tuple(size):
            return table
        grid = F.interpolate(table.permute(0, 3, 1, 2), size=tuple(size), mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1)

    def fitted(self, table: Tensor) -> Tensor:
        """Another model's table for this one's map. ValueError where it is no (1, H, W, C)."""
        if table.ndim != 4 or table.shape[0] != 1:
            raise ValueError(f"a table of shape {tuple(table.shape)} is no (1, H, W, C)")
        return self.resized(table, self.table.shape[1:3])

    def set_size(self, size: tuple[int, int]) -> None:
        self.table = nn.Parameter(self.resized(self.table.detach(), size))


class RelativeTable(nn.Module):
    """A bias for each head and each offset of two tokens in a window (Swin, Eq. 4).

    `table` is ((2M - 1)^2, h). The offset is the distance of the indices within the window, also under
    dilation: a table cell stands for "so many tokens of the window apart".
    """

    applies_to = "attention"
    index: Tensor

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.window = spec.window
        self.table = nn.Parameter(torch.empty((2 * spec.window - 1) ** 2, spec.heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", self._index(spec.window), persistent=False)

    @staticmethod
    def _index(window: int) -> Tensor:
        """(N, N) int64: the row of the table for query token i and key token j."""
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"), -1).flatten(0, 1)
        offset_NN2 = at[:, None] - at[None, :] + window - 1
        return offset_NN2[..., 0] * (2 * window - 1) + offset_NN2[..., 1]

    def forward(self, q: Tensor, k: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, self.table[self.index].permute(2, 0, 1)

    @staticmethod
    def resized(table: Tensor, window: int) -> Tensor:
        """A table ((2M - 1)^2, h) for windows of another side, bicubic over its grid (Swin, Section 3.2)."""
        side = math.isqrt(table.shape[0])
        grid = resize_grid(table.view(side, side, -1), (2 * window - 1, 2 * window - 1))
        return grid.reshape(-1, table.shape[1]).contiguous()

    def fitted(self, table: Tensor) -> Tensor:
        """Another model's table for this one's window. ValueError where it is no ((2M - 1)^2, h)."""
        side = math.isqrt(table.shape[0])
        if table.ndim != 2 or side * side != table.shape[0] or side % 2 == 0:
            raise ValueError(f"a table of shape {tuple(table.shape)} is no ((2M - 1)^2, heads)")
        return self.resized(table, self.window)

    def set_spec(self, spec: BlockSpec) -> None:
        self.table = nn.Parameter(self.resized(self.table.detach(), spec.window))
        self.window = spec.window
        self.index = self._index(spec.window).to(self.table.device)


class LogCPB(nn.Module):
    """Log-spaced continuous position bias (Swin V2, Eqs. 4 and 5): a small network from offset to bias.

    The offsets are real ones, in tokens of the map, and not divided by the window's extent: so the same
    network serves any window and any dilation, and nothing needs a resize.
    """

    applies_to = "attention"

    def __init__(self, spec: BlockSpec, hidden: int = 512) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, spec.heads, bias=False))

    def forward(self, q: Tensor, k: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offset_NN2 = (coordinates[:, None] - coordinates[None, :]).to(cast(nn.Linear, self.mlp[0]).weight.dtype)
        spaced = offset_NN2.sign() * torch.log2(offset_NN2.abs() + 1) / math.log2(8)
        # Swin V2's own code bounds the bias in this way; its paper does not say so.
        return q, k, 16 * torch.sigmoid(self.mlp(spaced)).permute(2, 0, 1)

    def set_spec(self, spec: BlockSpec) -> None:
        """Nothing depends on the window."""


class Rotary(nn.Module):
    """Axial rotary embedding: half of a head's channels turn with the row, half with the column.

    Channel pair i of an axis turns by position * base^(-2i / (d/2)) (RoFormer, Eq. 15, on each axis).
    Positions are real ones, in tokens of the map. ConfigError where the head width is no multiple of 4.
    """

    applies_to = "attention"

    def __init__(self, spec: BlockSpec, base: float = 100.0) -> None:
        super().__init__()
        width = spec.dim // spec.heads
        if width % 4:
            raise ConfigError(
                f"position rotary needs a head width that is a multiple of 4; stage {spec.stage} has {width}"
            )
        if base <= 1:
            raise ConfigError(f"position.rotary.base must be above 1, got {base}")
        frequencies = base ** (-torch.arange(0, width // 2, 2, dtype=torch.float32) / (width // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor

    def forward(self, q: Tensor, k: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor, None]:
        angle = (coordinates[:, :, None] * self.frequencies).flatten(1)  # (N, d/2): rows, then columns
        cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
        return self._turn(q, cos, sin), self._turn(k, cos, sin), None

    @staticmethod
    def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)

    def set_spec(self, spec: BlockSpec) -> None:
        """Nothing depends on the window."""
