"""The optimizer as configured: any of timm's by name, with the released no-decay rule and layer-wise rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm.optim
import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from iwin.errors import ConfigError, near_names, number

IMAGES_PER_RATE = 512
# Arguments of timm's factory that say how parameters are grouped, and what says it here.
GROUPING = {
    "layer_decay": "layer-wise rates are optimizer.layer_decay",
    "layer_decay_min_scale": "layer-wise rates are optimizer.layer_decay",
    "layer_decay_no_opt_scale": "what is not trained is named in task.freeze",
    "param_group_fn": "a configuration cannot hold a function",
    "filter_bias_and_bn": "biases and parameters of one dimension never decay here",
}
# Those that send parameters of a hybrid, such as Muon, to its fallback: options as any other.
FALLBACK = ("fallback_list", "fallback_no_weight_decay")


@dataclass(frozen=True)
class Optimizer:
    """name: one of timm's optimizers. lr: per 512 images of global batch. options: the optimizer's own keys.

    weight_decay is not applied to parameters of one dimension, biases, and what the model's
    `no_weight_decay` names (position tables): the rule of the released recipes.
    layer_decay: what the rate is multiplied with at each step away from the head, above 0 and at most 1; None for
        one rate everywhere. The model's `parameter_depths` tells the steps.

    Where an optimizer has no betas or no eps, timm leaves those options out.
    """

    name: str
    lr: float
    weight_decay: float
    options: dict[str, Any] = field(default_factory=dict)
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        known = [str(name) for name in timm.optim.list_optimizers()]
        if self.name not in known:
            raise ConfigError(f"optimizer.name={self.name}: timm has no such optimizer; {near_names(self.name, known)}")
        if timm.optim.get_optimizer_info(self.name).second_order:
            raise ConfigError(f"optimizer.name={self.name} needs second derivatives, which are not computed here")
        if number("optimizer.lr", self.lr, 0) == 0:
            raise ConfigError("optimizer.lr must be above 0, got 0")
        number("optimizer.weight_decay", self.weight_decay, 0)
        if self.layer_decay is not None and not 0 < number("optimizer.layer_decay", self.layer_decay, 0) <= 1:
            raise ConfigError(f"optimizer.layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        for key, instead in GROUPING.items():
            if key in self.options:
                raise ConfigError(f"optimizer.options.{key} has no place here: {instead}")
        self._create(nn.Linear(1, 1), 1.0, self.options)  # options that do not fit are found before training

    def check(self, model: nn.Module) -> None:
        """ConfigError where `model` has not what `build` will ask it for."""
        if self.layer_decay is not None and not hasattr(model, "parameter_depths"):
            raise ConfigError(
                f"optimizer.layer_decay={self.layer_decay} needs a model that tells the depths of its parameters, by a "
                f"method parameter_depths, and {type(model).__name__} has none: set it to null, or take one of ours"
            )

    def build(self, model: nn.Module, scale: float, *, fused: bool = False) -> torch.optim.Optimizer:
        """The optimizer for what of `model` requires gradients, its rate times `scale` (global batch / 512).

        fused: one kernel for all of a step, where torch's Adam or AdamW is built and the options do not choose.
        ConfigError for options that it does not have, and for layer_decay with a model that tells no depths.
        """
        options = self.options
        if fused and self.name in ("adam", "adamw") and not {"fused", "foreach"} & options.keys():
            options = {**options, "fused": True}
        if self.layer_decay is not None:
            groups = self.layered_groups(model, self.layer_decay)
            options = {**options, "param_group_fn": lambda _: groups}
        optimizer = self._create(model, scale, options)
        optimizer.register_load_state_dict_pre_hook(_keep_kernels)
        return optimizer

    def layered_groups(self, model: nn.Module, decay: float) -> list[dict[str, Any]]:
        """The groups that there are without layer_decay, each cut by depth.

        A group's `lr_scale` is `decay` to the power of its distance from the deepest parameter of the model, trained
        or not; timm's schedulers multiply with it.
        """
        self.check(model)
        told: Any = model
        depth_of = told.parameter_depths()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        spared: Any = getattr(model, "no_weight_decay", set)
        fallback = {key: self.options[key] for key in FALLBACK if key in self.options}
        groups = []
        for group in param_groups_weight_decay(model, self.weight_decay, no_weight_decay_list=spared(), **fallback):
            by_depth: dict[int, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_depth.setdefault(depth_of[names[id(parameter)]], []).append(parameter)
            for depth, parameters in sorted(by_depth.items()):
                scale = decay ** (max(depth_of.values()) - depth)
                groups.append({**group, "params": parameters, "lr_scale": scale})
        return groups

    def _create(self, model: nn.Module, scale: float, options: dict[str, Any]) -> torch.optim.Optimizer:
        try:
            return timm.optim.create_optimizer_v2(
                model, opt=self.name, lr=self.lr * scale, weight_decay=self.weight_decay, **options
            )
        except TypeError as error:
            raise ConfigError(f"optimizer.options={self.options} does not fit {self.name}: {error}") from error
        except (ValueError, ImportError, AssertionError) as error:  # values; packages and devices that are not here
            raise ConfigError(f"optimizer.name={self.name} cannot be made: {error}") from error


def _keep_kernels(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint from another device says how steps were computed there; here they are as this optimizer says."""
    if "fused" not in optimizer.defaults:
        return state
    groups = [{**group, "fused": optimizer.defaults["fused"]} for group in state["param_groups"]]
    return {**state, "param_groups": groups}
