"""Every configuration file composes, and every key in it is read by something."""

from __future__ import annotations

import inspect
from pathlib import Path

import hydra
import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from iwin.app import register
from iwin.conf import TOP_KEYS, check_keys, conf_dir, groups, options
from iwin.errors import ConfigError

CHOICES = [f"{group}={name}" for group in groups() for name in options(group) if group != "local"]


def compose(*overrides: str, program: str = "train") -> DictConfig:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(program, overrides=list(overrides))


def test_the_groups_of_the_plan_are_there() -> None:
    planned = {"mixer", "position", "downsample", "model", "data", "augment", "optimizer", "schedule", "trainer"}
    planned |= {"callbacks", "logger", "paths", "init", "experiment", "sweep", "debug", "local"}
    assert planned <= set(groups())


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_its_keys_are_read(choice: str) -> None:
    extra = ["model.model_name=resnet18"] if choice == "model=timm" else []
    cfg = compose(choice, *extra)
    check_keys(cfg)
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    for group in ("callbacks", "logger"):
        assert all("_target_" in node for node in config[group].values() if node)
    for name in ("optimizer", "schedule", "task", "data"):
        required = inspect.signature(get_object(config[name]["_target_"])).parameters
        missing = [
            key
            for key, parameter in required.items()
            if parameter.default is parameter.empty and key not in config[name] and name != "task"
        ]
        assert not missing, (name, missing)


def test_a_model_brings_its_parts_and_the_command_line_wins() -> None:
    swin = compose("model=swin_t")
    assert swin.model.position.keys() == {"relative"}
    assert swin.model.downsample._target_.endswith("PatchMerging")
    assert compose("model=swin_t", "mixer=window").model.mixer.blocks[0].local is not None
    both = compose("model=swin_t", "position=[absolute,relative]")
    assert both.model.position.keys() == {"absolute", "relative"}


def test_sizes_stand_in_the_composed_configuration() -> None:
    assert list(compose("model=iwin_b").model.depths) == [2, 2, 18, 2]


def test_the_recipe_of_imagenet_is_the_papers(reference: Path) -> None:
    import json

    recipe = json.loads((reference / "paper_tables.json").read_text())["recipes"]["in1k_from_scratch"]
    for model, rate in recipe["drop_path"].items():
        assert compose(f"model={model}", "data=in1k").model.drop_path_rate == rate
    cfg = compose("model=iwin_b", "data=in1k")
    assert cfg.duration == f"{recipe['epochs']}ep"
    assert cfg.schedule.warmup == f"{recipe['warmup_epochs']}ep"
    assert (cfg.optimizer.lr, cfg.schedule.warmup_lr, cfg.schedule.min_lr) == (
        recipe["base_lr_per_512"],
        recipe["warmup_lr_per_512"],
        recipe["min_lr_per_512"],
    )
    assert cfg.optimizer.weight_decay == recipe["weight_decay"]
    assert list(cfg.optimizer.options.betas) == recipe["betas"]
    assert cfg.optimizer.options.eps == recipe["eps"]
    assert cfg.trainer.gradient_clip_val == recipe["clip_grad_norm"]
    assert cfg.task.label_smoothing == recipe["label_smoothing"]
    augment = cfg.data.augment
    assert (augment.mixup, augment.cutmix, augment.mixup_prob, augment.switch_prob) == (
        recipe["mixup"],
        recipe["cutmix"],
        recipe["mixup_prob"],
        recipe["switch_prob"],
    )
    assert (augment.color_jitter, augment.auto_augment) == (recipe["color_jitter"], recipe["auto_augment"])
    erasing = recipe["random_erasing"]
    assert (augment.erase_prob, augment.erase_mode, augment.erase_count) == (
        erasing["prob"],
        erasing["mode"],
        erasing["count"],
    )
    assert augment.interpolation == recipe["interpolation"]


@pytest.mark.parametrize("override", ["+nonsense=1", "+model.nonsense=1", "+data.nonsense=1", "+optimizer.nonsense=1"])
def test_an_appended_key_that_nothing_reads_is_an_error(override: str) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        check_keys(compose(override))


def test_every_top_key_is_in_the_configuration() -> None:
    assert set(compose(program="eval").keys()) == TOP_KEYS
