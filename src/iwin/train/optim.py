"""The optimizer as configured: any of timm's by name, with the released no-decay rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm.optim
import torch
from torch import nn

from iwin.errors import ConfigError, near_names, number

IMAGES_PER_RATE = 512


@dataclass(frozen=True)
class Optimizer:
    """name: one of timm's optimizers. lr: per 512 images of global batch. options: the optimizer's own keys.

    weight_decay is not applied to parameters of one dimension, biases, and what the model's
    `no_weight_decay` names (position tables): the rule of the released recipes.
    """

    name: str
    lr: float
    weight_decay: float
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [str(name) for name in timm.optim.list_optimizers()]
        if self.name not in known:
            raise ConfigError(f"optimizer.name={self.name}: timm has no such optimizer; {near_names(self.name, known)}")
        if number("optimizer.lr", self.lr, 0) == 0:
            raise ConfigError("optimizer.lr must be above 0, got 0")
        number("optimizer.weight_decay", self.weight_decay, 0)
        self.build(nn.Linear(1, 1), 1.0)  # options that do not fit are found now, not when training starts

    def build(self, model: nn.Module, scale: float, *, fused: bool = False) -> torch.optim.Optimizer:
        """The optimizer for `model`, its rate times `scale` (global batch / 512).

        fused: one kernel for all of a step, where torch's Adam or AdamW is built and the options do not choose.
        ConfigError for options that it does not have.
        """
        options = self.options
        if fused and self.name in ("adam", "adamw") and not {"fused", "foreach"} & options.keys():
            options = {**options, "fused": True}
        try:
            optimizer = timm.optim.create_optimizer_v2(
                model, opt=self.name, lr=self.lr * scale, weight_decay=self.weight_decay, **options
            )
        except TypeError as error:
            raise ConfigError(f"optimizer.options={self.options} does not fit {self.name}: {error}") from error
        optimizer.register_load_state_dict_pre_hook(_keep_kernels)
        return optimizer


def _keep_kernels(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint from another device says how steps were computed there; here they are as this optimizer says."""
    if "fused" not in optimizer.defaults:
        return state
    groups = [{**group, "fused": optimizer.defaults["fused"]} for group in state["param_groups"]]
    return {**state, "param_groups": groups}
