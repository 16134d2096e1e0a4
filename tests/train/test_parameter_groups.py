"""Parameter groups follow the released rule, every parameter is in exactly one, and rates fall with depth."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import timm.optim
import torch
from torch import nn

import iwin
from iwin.errors import ConfigError
from iwin.models.zoo import SIZES
from iwin.train.freeze import freeze
from iwin.train.optim import Optimizer
from iwin.train.schedule import Cosine

TIMMS = ("resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "cait_xxs24_224")
POSITIONS = (["absolute", "relative"], "log_cpb", "rotary", "none")
# Parts of names of what the published codes spare besides vectors and biases: embeddings, tables, tokens.
SPARED = ("positions", "pos_embed", "cls_token", "relative_position_bias_table")


def meta(name: str, **keys: Any) -> nn.Module:
    with torch.device("meta"):
        if name in SIZES:
            return iwin.create_model(name, num_classes=10, **keys)
        return timm.create_model(name, num_classes=10)


def held_to_the_rule(model: nn.Module, groups: list[dict[str, Any]], decay: float) -> None:
    """Parameter by parameter, over names and shapes."""
    for name, parameter in model.named_parameters():
        homes = [group for group in groups if any(parameter is other for other in group["params"])]
        assert len(homes) == 1, name
        spared = len(parameter.shape) < 2 or name.split(".")[-1] == "bias" or any(part in name for part in SPARED)
        assert homes[0]["weight_decay"] == (0 if spared else decay), name


@pytest.mark.parametrize("name", [*SIZES, *TIMMS])
def test_no_decay_for_vectors_biases_and_position_tables(name: str) -> None:
    model = meta(name)
    held_to_the_rule(model, Optimizer("adamw", 5e-4, 0.05).build(model, 2.0).param_groups, 0.05)


@pytest.mark.parametrize("position", POSITIONS, ids=str)
@pytest.mark.parametrize("name", ["iwin_micro", "swin_micro"])
@pytest.mark.parametrize("layer_decay", [None, 0.75])
def test_the_same_for_every_position_and_layered(name: str, position: Any, layer_decay: float | None) -> None:
    model = meta(name, position=position)
    groups = Optimizer("lamb", 5e-4, 0.05, layer_decay=layer_decay).build(model, 2.0).param_groups
    held_to_the_rule(model, groups, 0.05)
    assert sum(len(group["params"]) for group in groups) == len([*model.parameters()])


@pytest.mark.parametrize("name", ["iwin_micro", "resnet18"])
def test_without_layer_decay_the_groups_are_timms(name: str) -> None:
    model = meta(name)
    ours = Optimizer("adamw", 5e-4, 0.05).build(model, 2.0).param_groups
    timms = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05).param_groups
    for one, other in zip(ours, timms, strict=True):
        assert [*map(id, one.pop("params"))] == [*map(id, other.pop("params"))]
        assert one == other


class Backwards(nn.Module):
    """Its names say the contrary of its depths."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.head = nn.Linear(3, 3)

    def parameter_depths(self) -> dict[str, int]:
        return {name: 0 if "head" in name else 3 - int(name.split(".")[1]) for name, _ in self.named_parameters()}


def test_depths_are_asked_for_and_never_read_from_names() -> None:
    model = Backwards()
    groups = Optimizer("adamw", 1.0, 0.1, layer_decay=0.5).build(model, 1.0).param_groups
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert {name: scales[id(p)] for name, p in model.named_parameters() if "weight" in name} == {
        "layers.0.weight": 1.0,
        "layers.1.weight": 0.5,
        "layers.2.weight": 0.25,
        "head.weight": 0.125,
    }
    assert sorted(group["weight_decay"] for group in groups) == [0.0] * 4 + [0.1] * 4


@pytest.mark.parametrize("name", [*SIZES])
def test_rates_fall_with_every_block_away_from_the_head(name: str) -> None:
    model = meta(name)
    groups = Optimizer("adamw", 5e-4, 0.05, layer_decay=0.8).build(model, 1.0).param_groups
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    order: list[nn.Module] = [model.patch_embed]
    for stage in model.layers:
        order += stage.blocks
    order.append(model.head)
    found = []
    for module in order:
        (scale,) = {scales[id(p)] for p in module.parameters()}
        found.append(scale)
    assert found == pytest.approx([0.8**distance for distance in reversed(range(len(order)))])
    assert found == sorted(found)
    assert len(found) == sum(SIZES[name].depths) + 2


def test_a_schedule_moves_every_layer_in_proportion_and_the_head_as_without() -> None:
    model = meta("swin_micro")
    schedule, lengths = Cosine("2st", 1e-6, 1e-5), {"per_epoch": 5, "total": 10, "scale": 2.0}
    layered = Optimizer("adamw", 5e-4, 0.05, layer_decay=0.7).build(model, 2.0)
    plain = Optimizer("adamw", 5e-4, 0.05).build(model, 2.0)
    schedules = [schedule.build(optimizer, **lengths) for optimizer in (layered, plain)]
    for update in range(10):
        for scheduler in schedules:
            scheduler.step_update(update)
        rate = plain.param_groups[0]["lr"]
        assert max(group["lr"] for group in layered.param_groups) == rate
        for group in layered.param_groups:
            assert group["lr"] == pytest.approx(rate * group["lr_scale"])


def test_a_model_that_tells_no_depths_is_an_error() -> None:
    with pytest.raises(ConfigError, match="parameter_depths, and ResNet has none: set it to null"):
        Optimizer("adamw", 5e-4, 0.05, layer_decay=0.8).build(meta("resnet18"), 1.0)


@pytest.mark.parametrize("layer_decay", [None, 0.75])
def test_frozen_parameters_are_in_no_group(layer_decay: float | None) -> None:
    model = meta("iwin_micro")
    frozen = freeze(model, ["patch_embed.*", "*.norm1.*"])
    groups = Optimizer("adamw", 5e-4, 0.05, layer_decay=layer_decay).build(model, 1.0).param_groups
    grouped = {id(p) for group in groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) not in grouped} == set(frozen)
    if layer_decay is not None:  # the depths are those of the model, whatever is frozen
        assert max(group["lr_scale"] for group in groups) == 1
