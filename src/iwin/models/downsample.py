"""The stem and the four downsamplings between stages (Iwin, Section II-D and Table VII).

All take and give channels-last maps: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C). An odd side is
zero-padded to even after the norm (before it, for patch merging, as in Swin).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iwin.models.spec import PATCH
from iwin.models.windows import pad_end, padding


class PatchEmbed(nn.Module):
    """The stem: PATCH x PATCH convolution of that stride, then LayerNorm. (B, in, H, W) -> (B, H/4, W/4, C).

    An image that is no multiple of the patch is zero-padded right and below.
    """

    def __init__(self, in_chans: int, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        below, right = padding(x.shape[2:], PATCH)
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ConvDownsample(nn.Module):
    """LayerNorm, then a 3 x 3 convolution of stride 2, C -> 2C, with bias (Iwin's own, Eq. 6).

    One row is added below and one column right, so that the taps of an even side end on real tokens.
    """

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.conv = nn.Conv2d(dim, 2 * dim, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        below, right = padding(x.shape[1:3], 2)
        x = pad_end(x, (below + 1, right + 1))
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DepthwiseDownsample(nn.Module):
    """LayerNorm, a depthwise 3 x 3 convolution of stride 2, then a 1 x 1 convolution C -> 2C with bias."""

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.depthwise = nn.Conv2d(dim, dim, kernel_size=3, stride=2, groups=dim)
        self.pointwise = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        below, right = padding(x.shape[1:3], 2)
        x = pad_end(x, (below + 1, right + 1))
        return self.pointwise(self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class AveragePoolDownsample(nn.Module):
    """LayerNorm, 2 x 2 average, then a 1 x 1 convolution C -> 2C with bias.

    The average comes first: the same function as convolving first, at a quarter of the cost.
    """

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.pointwise = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        x = pad_end(x, padding(x.shape[1:3], 2))
        return self.pointwise(F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """The 2 x 2 neighbours side by side, LayerNorm(4C), a linear layer 4C -> 2C without bias (Swin, Section 3.1)."""

    def __init__(self, dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=norm_eps)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_end(x, padding(x.shape[1:3], 2))
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]  # (0,0) (1,0) (0,1) (1,1)
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))
