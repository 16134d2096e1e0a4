"""The hierarchical backbone that Swin and Iwin share.

Shapes: B batch, H W the map of a stage in tokens, C channels, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from timm.layers import ClassifierHead
from torch import Tensor, nn

from iwin.errors import ConfigError, near_names, number, whole
from iwin.models.block import STRUCTURES, Stage
from iwin.models.downsample import PatchEmbed
from iwin.models.spec import PATCH, BlockSpec, image_size, map_sizes, plan_stages
from iwin.models.targets import build_part, part_class, plain

PAD_ATTENTION = ("masked", "released")


class Backbone(nn.Module):
    """Stem, four stages at strides 4 to 32, final norm, pooled linear head (Swin, Fig. 3; Iwin, Table III).

    img_size: one side or [height, width] in pixels. window_size: M, or `auto` (spec.resolve_window).
    dynamic: take images whose size changes from call to call; windows then never shrink.
    mixer: {"blocks": [{"attention": part or None, "local": part or None}, ...]}, cycled over the blocks.
    position: {name: part}. downsample: part. A part is plain data (targets.build_part).
    kernel_sizes: of the local mixers, one number or one a stage, None for no local mixer.
    pad_attention: `masked` hides the tokens that only fill up a map from attention, `released` does not.
    drop_rate: dropout before the head. drop_path_rate: of the last block, rising linearly from 0.
    norm_eps: of every LayerNorm (the released models have 1e-5).

    ConfigError, naming the key, for numbers and combinations that cannot be a model.
    """

    def __init__(
        self,
        *,
        img_size: int | Sequence[int],
        window_size: int | str,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        mixer: Mapping[str, Any],
        position: Mapping[str, Any],
        downsample: Mapping[str, Any],
        num_classes: int = 1000,
        in_chans: int = 3,
        kernel_sizes: int | Sequence[int | None] | None = 3,
        structure: str = "S1",
        pad_attention: str = "masked",
        dynamic: bool = False,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        arguments = {key: plain(value) for key, value in locals().items() if key not in ("self", "__class__")}
        super().__init__()
        self.config: dict[str, Any] = arguments
        rates = {
            "drop_rate": drop_rate,
            "proj_drop_rate": proj_drop_rate,
            "attn_drop_rate": attn_drop_rate,
            "drop_path_rate": drop_path_rate,
        }
        self._check(mixer, position, structure, pad_attention, rates)
        whole("in_chans", in_chans, 1)
        whole("num_classes", num_classes, 0)
        number("mlp_ratio", mlp_ratio, 0)
        self.img_size = image_size(img_size)
        self.dynamic = dynamic
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.plan = plan_stages(
            img_size=self.img_size,
            window_size=window_size,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            kernel_sizes=kernel_sizes,
            dynamic=dynamic,
        )
        self.num_features = self.head_hidden_size = self.plan[-1].dim
        tokens = {name: part for name, part in position.items() if part_class(part).applies_to == "tokens"}
        self._common = BlockSpec(
            dim=embed_dim,
            heads=num_heads[0],
            window=self.plan[0].window,
            positions={name: part for name, part in position.items() if name not in tokens},
            qkv_bias=qkv_bias,
            mask_padding=pad_attention == "masked",
            attn_drop=attn_drop_rate,
            proj_drop=proj_drop_rate,
        )
        self.patch_embed = PatchEmbed(in_chans, embed_dim, norm_eps)
        first = map_sizes(self.img_size, 1)[0]
        self.positions = nn.ModuleDict({name: build_part(part, embed_dim, first) for name, part in tokens.items()})
        last = max(sum(depths) - 1, 1)
        drop_paths = iter([drop_path_rate * index / last for index in range(sum(depths))])
        self.layers = nn.ModuleList(
            Stage(
                plan,
                self._common,
                mixers=mixer["blocks"],
                structure=structure,
                downsample=downsample if plan.stage < len(self.plan) - 1 else None,
                mlp_ratio=mlp_ratio,
                drop_path=[next(drop_paths) for _ in range(plan.depth)],
                norm_eps=norm_eps,
            )
            for plan in self.plan
        )
        self.norm: nn.Module = nn.LayerNorm(self.num_features, eps=norm_eps)
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate, input_fmt="NHWC")
        self.feature_info = [
            {"num_chs": plan.dim, "reduction": PATCH * 2**plan.stage, "module": f"layers.{plan.stage}"}
            for plan in self.plan
        ]
        self.apply(self._init_linear)

    @staticmethod
    def _check(
        mixer: Mapping[str, Any],
        position: Mapping[str, Any],
        structure: str,
        pad_attention: str,
        rates: dict[str, float],
    ) -> None:
        if structure not in STRUCTURES:
            raise ConfigError(f"structure {structure!r}: {near_names(structure, STRUCTURES)}")
        if pad_attention not in PAD_ATTENTION:
            raise ConfigError(f"pad_attention {pad_attention!r}: {near_names(pad_attention, PAD_ATTENTION)}")
        for key, rate in rates.items():
            number(key, rate, 0, below=1)
        entries = mixer.get("blocks")
        if not entries or any(not set(entry) <= {"attention", "local"} for entry in entries):
            raise ConfigError(f"mixer needs blocks: a list of {{attention, local}}, got {mixer}")
        attends = [entry.get("attention") is not None for entry in entries]
        inside = [name for name, part in position.items() if part_class(part).applies_to == "attention"]
        if inside and not any(attends):
            raise ConfigError(f"position {', '.join(inside)} lives in the attention, and this mixer has none")
        both = any(e.get("attention") is not None and e.get("local") is not None for e in entries)
        if structure != "S1" and not both:
            raise ConfigError(f"structure {structure} arranges an attention and a local mixer; this mixer has only one")

    @property
    def stages(self) -> list[Stage]:
        """The stages, by their type."""
        return [cast(Stage, stage) for stage in self.layers]

    @staticmethod
    def _init_linear(module: nn.Module) -> None:
        """Linear weights from a truncated normal of 0.02, biases 0; the rest keeps PyTorch's defaults."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, height, width) -> tokens (B, H, W, C) with their position, if they carry one."""
        if not self.dynamic and tuple(x.shape[2:]) != self.img_size:
            raise ValueError(
                f"the model was built for images of {self.img_size[0]} x {self.img_size[1]} pixels and got "
                f"{x.shape[2]} x {x.shape[3]}: call set_input_size, or build it with dynamic=True"
            )
        x = self.patch_embed(x)
        for position in self.positions.values():
            x = position(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> the normalised map of the last stage, (B, H, W, 8C)."""
        x = self.embed(x)
        for stage in self.layers:
            _, x = stage(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """A map (B, H, W, 8C) -> logits (B, num_classes), or the pooled features before the linear layer."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, height, width) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))
