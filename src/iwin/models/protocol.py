"""What timm asks of a model beyond its forward pass, so that whatever takes a timm backbone takes ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from timm.models._features import feature_take_indices
from torch import Tensor, nn

from iwin.models.backbone import Backbone
from iwin.models.positions import Absolute
from iwin.models.spec import PLAN_KEYS, image_size, map_sizes, plan_stages


class WindowTransformer(Backbone):
    """A Backbone with what others call on it: intermediate maps, classifier, input size, groups."""

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps after the blocks of the stages `indices` (all by default; an int: the last so many).

        norm: put the final norm on the last stage's map. stop_early: compute no stage after the last asked.
        output_fmt: NCHW or NHWC. Returns the list of maps, or (final map (B, H, W, C), list).
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        take, last = feature_take_indices(len(self.layers), indices)
        x = self.embed(x)
        maps = []
        for index, stage in enumerate(self.layers if not stop_early else self.layers[: last + 1]):
            features, x = stage(x)
            at_end = index == len(self.plan) - 1
            if at_end:
                x = self.norm(x)
            if index in take:
                features = x if at_end and norm else features
                maps.append(features.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else features)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the stages `indices` do not need; returns them as a list."""
        take, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        self.stages[last].downsample = None
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """The linear layer of the head (an identity for no classes)."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new linear layer for `num_classes` (0: none), initialised as in a new model."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)
        self.head.apply(self._init_linear)
        self.config["num_classes"] = num_classes
        if global_pool is not None:
            self.config["global_pool"] = global_pool

    def set_input_size(self, img_size: int | Sequence[int] | None = None, window_size: int | str | None = None) -> None:
        """Take images of another size, or windows of another side, with the weights that are there.

        Position tables are resized by bicubic interpolation; a local mixer that appears starts at zero.
        ConfigError where one with weights would have to go (Block.set_spec).
        """
        config = dict(self.config)
        config["img_size"] = list(image_size(config["img_size"] if img_size is None else img_size))
        config["window_size"] = config["window_size"] if window_size is None else window_size
        size = image_size(config["img_size"])
        plans = plan_stages(img_size=size, **{key: config[key] for key in PLAN_KEYS})
        for stage, plan in zip(self.stages, plans, strict=True):
            stage.check_plan(plan, self._common)  # before anything is changed
        for position in self.positions.values():
            cast(Absolute, position).set_size(map_sizes(size, 1)[0])
        for stage, plan in zip(self.stages, plans, strict=True):
            stage.set_plan(plan, self._common)
        self.config, self.plan, self.img_size = config, plans, size

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks again in the backward pass instead of keeping their activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters of the position modes; what has one dimension is left to the optimizer's own rule."""
        return {name for name, _ in self.named_parameters() if "positions" in name.split(".")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns for grouping parameters: by stage (coarse) or by block."""
        if coarse:
            return {
                "stem": r"^patch_embed|^positions",
                "blocks": [(r"^layers\.(\d+)", None), (r"^norm|^head", (99999,))],
            }
        return {
            "stem": r"^patch_embed|^positions",
            "blocks": [
                (r"^layers\.(\d+)\.blocks\.(\d+)", None),
                (r"^layers\.(\d+)\.downsample", (99998,)),
                (r"^norm|^head", (99999,)),
            ],
        }

    def parameter_depths(self) -> dict[str, int]:
        """The depth of every parameter for layer-wise rates: 0 the stem, then the blocks, last norm and head.

        A downsampling counts with the block before it.
        """
        depths: dict[nn.Module, int] = {self.patch_embed: 0, self.positions: 0}
        depth = 0
        for stage in self.stages:
            for block in stage.blocks:
                depth += 1
                depths[block] = depth
            if stage.downsample is not None:
                depths[stage.downsample] = depth
        depths[self.norm] = depths[self.head] = depth + 1
        of = {id(p): d for module, d in depths.items() for p in module.parameters()}
        return {name: of[id(parameter)] for name, parameter in self.named_parameters()}
