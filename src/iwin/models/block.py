"""One block and one stage: how norm, mixers, residuals and drop-path are arranged (Iwin, Fig. 3, Eq. 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from iwin.errors import ConfigError
from iwin.models.spec import BlockSpec, StagePlan
from iwin.models.targets import build_part

STRUCTURES = ("S1", "S2", "S3")


class Block(nn.Module):
    """Attention A and a local mixer D, arranged by `structure`, then an MLP; either mixer may be missing.

    S1: y = x + A(LN x) + D(LN x): one norm feeds both branches, one drop-path acts on their sum.
    S2: y = (x + A(LN x)) + (x + D(LN x)): each branch keeps its own residual from the input.
    S3: u = x + D(LN x), y = u + A(LN' u).
    Then z = y + MLP(LN y).
    """

    def __init__(
        self,
        spec: BlockSpec,
        *,
        attention: Mapping[str, Any] | None,
        local: Mapping[str, Any] | None,
        structure: str,
        mlp_ratio: float,
        drop_path: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.structure = structure
        self.attn: Any  # a mixer or None, as local
        self.local: Any
        self.norm1 = nn.LayerNorm(spec.dim, eps=norm_eps)
        self.attn = None if attention is None else build_part(attention, spec)
        self.local_config = local
        self.local = None if local is None or spec.kernel is None else build_part(local, spec)
        if self.attn is None and self.local is None:
            raise ConfigError(
                f"stage {spec.stage} would mix no tokens: its mixer has no attention and its kernel_sizes is null"
            )
        serial = structure == "S3" and self.attn is not None and self.local is not None
        self.norm_local = nn.LayerNorm(spec.dim, eps=norm_eps) if serial else None
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(spec.dim, eps=norm_eps)
        self.mlp = Mlp(spec.dim, int(spec.dim * mlp_ratio), drop=spec.proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.mix(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def mix(self, x: Tensor) -> Tensor:
        """The part of the block in which tokens meet, (B, H, W, C) -> (B, H, W, C)."""
        if self.attn is None:
            return x + self.drop_path(self.local(self.norm1(x)))
        if self.local is None:
            return x + self.drop_path(self.attn(self.norm1(x)))
        if self.norm_local is not None:
            x = x + self.drop_path(self.local(self.norm_local(x)))
            return x + self.drop_path(self.attn(self.norm1(x)))
        normed = self.norm1(x)
        if self.structure == "S2":
            return (x + self.drop_path(self.attn(normed))) + (x + self.drop_path(self.local(normed)))
        return x + self.drop_path(self.attn(normed) + self.local(normed))

    def check_spec(self, spec: BlockSpec) -> None:
        """ConfigError where `spec` has no place for a local mixer that stands here, or one in S2 would appear."""
        if self.local is not None and spec.kernel is None:
            raise ConfigError(
                f"at this input size the attention of stage {spec.stage} covers the map, and such a stage has no local "
                f"mixer; setting it would drop one with weights. Build a new model for that size instead."
            )
        appears = self.local is None and spec.kernel is not None and self.local_config is not None
        if appears and self.structure == "S2" and self.attn is not None:
            raise ConfigError(
                f"at this input size stage {spec.stage} gets a local mixer, which in structure S2 brings a residual of "
                f"its own: even at zero it would change the function. Build a new model for that size instead."
            )

    def set_spec(self, spec: BlockSpec) -> None:
        """Take another window and map size. A local mixer that appears starts at zero: the function stays."""
        if self.local is None and spec.kernel is not None and self.local_config is not None:
            device = self.norm1.weight.device
            self.local = build_part(self.local_config, spec).to(device)
            for parameter in self.local.parameters():
                nn.init.zeros_(parameter)
            if self.structure == "S3" and self.attn is not None:
                self.norm_local = nn.LayerNorm(spec.dim, eps=self.norm1.eps).to(device)
        for mixer in (self.attn, self.local):
            if hasattr(mixer, "set_spec"):
                mixer.set_spec(spec)


class Stage(nn.Module):
    """Blocks of one resolution, then the downsampling to the next (none after the last stage).

    mixers: the entries {attention, local} of the mixer's configuration, cycled over the blocks.
    drop_path: a rate for each block.
    """

    def __init__(
        self,
        plan: StagePlan,
        common: BlockSpec,
        *,
        mixers: Sequence[Mapping[str, Any]],
        structure: str,
        downsample: Mapping[str, Any] | None,
        mlp_ratio: float,
        drop_path: Sequence[float],
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.mixers = [dict(mixers[index % len(mixers)]) for index in range(plan.depth)]
        self.blocks = nn.ModuleList(
            Block(
                self.block_spec(plan, common, index),
                attention=mixer.get("attention"),
                local=mixer.get("local"),
                structure=structure,
                mlp_ratio=mlp_ratio,
                drop_path=drop_path[index],
                norm_eps=norm_eps,
            )
            for index, mixer in enumerate(self.mixers)
        )
        self.downsample = None if downsample is None else build_part(downsample, plan.dim, norm_eps)

    def block_spec(self, plan: StagePlan, common: BlockSpec, index: int) -> BlockSpec:
        """The spec of one block: beside an attention that sees the whole map there is no local mixer."""
        beside_global = plan.is_global and self.mixers[index].get("attention") is not None
        return replace(
            common,
            dim=plan.dim,
            heads=plan.heads,
            window=plan.window,
            kernel=None if beside_global else plan.kernel,
            feature_size=plan.size,
            stage=plan.stage,
            index=index,
        )

    def check_plan(self, plan: StagePlan, common: BlockSpec) -> None:
        """ConfigError where a block could not take the new size."""
        for index, block in enumerate(self.blocks):
            cast(Block, block).check_spec(self.block_spec(plan, common, index))

    def set_plan(self, plan: StagePlan, common: BlockSpec) -> None:
        """Take another window and map size."""
        for index, block in enumerate(self.blocks):
            cast(Block, block).set_spec(self.block_spec(plan, common, index))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> the map after the blocks, and after the downsampling (the same where there is none)."""
        for block in self.blocks:
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x, x if self.downsample is None else self.downsample(x)
