"""Depthwise convolution, the local mixer of Iwin (Section II-C); the kernel is the model's kernel_sizes."""

from __future__ import annotations

from torch import Tensor, nn

from iwin.errors import ConfigError
from iwin.models.spec import BlockSpec


class DepthwiseConv(nn.Module):
    """K x K convolution of each channel by itself, with bias, stride 1 and zero padding K // 2.

    ConfigError where the stage has no kernel.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        if spec.kernel is None:
            raise ConfigError(f"kernel_sizes is null in stage {spec.stage}, whose mixer is a convolution")
        self.conv = nn.Conv2d(spec.dim, spec.dim, spec.kernel, padding=spec.kernel // 2, groups=spec.dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C). The permuted view is channels-last memory: no copy is made."""
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
