"""Every recipe and every sweep is what the papers' tables say: its settings, its model's size, its expected number."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from iwin.app import register
from iwin.conf import check_keys, conf_dir, options
from iwin.models.count import count_model
from iwin.train.sweep import planned_cells

TABLES = json.loads((Path(__file__).parent / "reference" / "paper_tables.json").read_text())
ROWS = {(row["model"], row["image_size"], row["pretrain"]): row for row in TABLES["table1_imagenet1k"]}
RECIPES = TABLES["recipes"]
PAPERS = [name for name in options("experiment") if not re.search("micro|finetune", name)]
# Table VII counts the depthwise convolution of its downsampling as a dense one, and in average pooling the 1x1
# convolution before the pooling: which of its FLOPs are the printed ones and which are not, is in test_counts.py.
OTHER_FLOPS = {"downsample=dwconv", "downsample=avgpool"}
SWEPT = {
    "table7_attention": ("attention_and_convolution", ("mixer",)),
    "table7_downsample": ("downsampling", ("downsample",)),
    "table7_kernel": ("kernel_size_per_stage", ("model.kernel_sizes",)),
    "table7_depths": ("blocks_per_stage", ("blocks",)),
    "table7_position": ("position_embedding", ("position",)),
}
SETTINGS = {
    "mixer=dwconv": "dwconv only",
    "mixer=window_attention": "w-msa only",
    "mixer=interleaved_attention": "iw-msa only",
    "mixer=window": "dwconv + w-msa",
    "mixer=interleaved": "dwconv + iw-msa",
    "downsample=dwconv": "dwconv",
    "downsample=avgpool": "avg pooling",
    "downsample=merging": "patch merging",
    "downsample=conv": "std conv",
    "position=absolute": "absolute",
    "position=relative": "relative",
    "position=none": "none",
}


def compose(*overrides: str, hydra_too: bool = False) -> DictConfig:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides), return_hydra_config=hydra_too)


def model_of(cfg: DictConfig) -> Any:
    with torch.device("meta"):
        return instantiate(cfg.model, _recursive_=False, _convert_="all")


def row_of(name: str) -> dict[str, Any] | None:
    """The row of Table I that a recipe's name says."""
    if name.endswith("_22k"):
        return None
    base, size = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()  # type: ignore[union-attr]
    pretrain = "in22k" if base.endswith("_22k_to_1k") else None
    return ROWS[base.removesuffix("_22k_to_1k"), int(size or 224), pretrain]


def finetuned(name: str) -> dict[str, Any] | None:
    row = row_of(name)
    if row is None or (row["pretrain"] is None and row["image_size"] == 224):
        return None
    init = "in22k 224" if row["pretrain"] else "in1k 224"
    (found,) = [
        one
        for one in RECIPES["finetune"]["rows"]
        if (one["model"], one["image_size"], one["init"]) == (row["model"], row["image_size"], init)
    ]
    return found


def test_every_row_of_the_tables_has_its_recipe() -> None:
    rows = [row for name in PAPERS if (row := row_of(name)) is not None]
    assert len(rows) == len(ROWS)
    assert {id(row) for row in rows} == {id(row) for row in ROWS.values()}
    assert {name.removesuffix("_22k") for name in PAPERS if name.endswith("_22k")} == set(
        RECIPES["in22k_pretrain"]["models"]
    )


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_has_the_model_and_the_number_of_its_row(name: str) -> None:
    cfg = compose(f"experiment={name}")
    check_keys(cfg)
    row, model = row_of(name), model_of(cfg)
    if row is None:
        assert cfg.paper is None
        return
    assert cfg.data.image_size == row["image_size"]
    assert model.plan[0].window == row["window"]
    counts = count_model(model, (row["image_size"],) * 2)
    assert counts.parameters == row["params_exact"]
    assert counts.flops / 1e9 == pytest.approx(row["gflops_released"], rel=3e-3)
    assert cfg.paper == {"top1": row["top1"], "source": "Iwin, Table I"}


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_has_the_papers_settings(name: str) -> None:
    cfg, tuned = compose(f"experiment={name}"), finetuned(name)
    shared = RECIPES["finetune"]["shared"]
    if tuned is not None:
        found = RECIPES["in1k_from_scratch"] | {
            "base_lr_per_512": shared["lr_per_512"],
            "warmup_lr_per_512": shared["warmup_lr_per_512"],
            "min_lr_per_512": shared["min_lr_per_512"],
            "weight_decay": shared["weight_decay"],
        }
        found |= {key: tuned[key] for key in ("epochs", "warmup_epochs", "global_batch", "drop_path")}
        assert cfg.data.augment.eval_resize == {"direct resize": 1.0, "centre crop": 0.875}[tuned["eval"]]
        assert cfg.init.head == ("map_22k_to_1k" if "22k" in tuned["init"] else "keep")
        assert cfg.model.window_size == tuned["window"]
    elif name.endswith("_22k"):
        recipe = RECIPES["in22k_pretrain"]
        found = RECIPES["in1k_from_scratch"] | recipe | {"base_lr_per_512": recipe["lr_per_512"]}
        assert (cfg.data.name, cfg.data.num_classes) == ("in22k", recipe["num_classes"])
        assert found["base_lr_per_512"] * found["global_batch"] / 512 == recipe["lr_effective"]
    else:
        recipe = RECIPES["in1k_from_scratch"]
        found = recipe | {"global_batch": 1024, "drop_path": recipe["drop_path"][name]}
        assert cfg.data.augment.eval_resize == 0.875
        assert cfg.init == {}
    assert cfg.duration == f"{found['epochs']}ep"
    assert cfg.schedule.warmup == f"{found['warmup_epochs']}ep"
    assert cfg.optimizer.lr == found["base_lr_per_512"]
    assert cfg.schedule.warmup_lr == found["warmup_lr_per_512"]
    assert cfg.schedule.min_lr == found["min_lr_per_512"]
    assert cfg.optimizer.weight_decay == found["weight_decay"]
    assert cfg.global_batch == found["global_batch"]
    assert cfg.model.drop_path_rate == found["drop_path"]
    assert cfg.trainer.gradient_clip_val == found["clip_grad_norm"]
    assert (cfg.data.augment.auto_augment, cfg.data.augment.mixup) == (found["auto_augment"], found["mixup"])
    for devices in (1, 2, 4, 8):  # the global batch is reached on all of these
        assert cfg.global_batch % (devices * cfg.data.batch_size) == 0, devices


@pytest.mark.parametrize("name", options("experiment"))
def test_a_recipe_says_what_it_is(name: str) -> None:
    text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
    command = re.search(r"^# Command   python train.py experiment=(\S+)", text, re.MULTILINE)
    assert command is not None
    assert command[1] == name
    for word in ("Expected", "Source", "Batch"):
        assert re.search(rf"^# {word:9s} \S", text, re.MULTILINE), word
    cfg = compose(f"experiment={name}")
    if cfg.paper:
        assert re.search(rf"^# Expected  {cfg.paper.top1} % top-1", text, re.MULTILINE)
    if cfg.global_batch is not None:
        assert re.search(rf"^# Batch     {cfg.global_batch}\b", text, re.MULTILINE)


def cells(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[list[str]]:
    monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
        return planned_cells(cfg.hydra.sweeper)


@pytest.mark.parametrize("data", ["digits", "in1k"])
@pytest.mark.parametrize("sweep", options("sweep"))
def test_every_cell_of_every_sweep_can_be_built(sweep: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = cells(monkeypatch, f"sweep={sweep}", f"data={data}")
    assert len(planned) >= 3
    built = []
    for overrides in planned:
        cfg = compose(*overrides)
        check_keys(cfg)
        built.append(OmegaConf.to_yaml(cfg, resolve=True))
        counts = count_model(model_of(cfg), (cfg.data.image_size,) * 2)
        if data == "in1k" and sweep != "seeds":
            assert (cfg.model.name, cfg.duration, cfg.data.num_classes) == ("iwin_t", "300ep", 1000)
        if data == "in1k" and sweep in SWEPT:
            own = [one for one in overrides if one.split("=")[0] in SWEPT[sweep][1]]
            row = table7(sweep, own[0])
            assert counts.parameters / 1e6 == pytest.approx(row["params_m"], abs=0.0051)
            if own[0] not in OTHER_FLOPS:
                assert counts.flops / 1e9 == pytest.approx(row["gflops"], abs=0.015)
    assert len(set(built)) == len(planned)


def table7(sweep: str, override: str) -> dict[str, Any]:
    key, value = override.split("=")
    setting: Any = SETTINGS.get(override)
    if key == "model.kernel_sizes":
        setting = json.loads(value)
    if key == "blocks":
        setting = [int(depth) for depth in value.split("-")]
    rows = TABLES["table7_ablations_iwin_t_224"][SWEPT[sweep][0]]
    (row,) = [row for row in rows if row["setting"] == setting]
    return row


@pytest.mark.parametrize("sweep", options("sweep"))
def test_a_sweep_says_what_it_is(sweep: str) -> None:
    text = (conf_dir() / "sweep" / f"{sweep}.yaml").read_text()
    assert re.search(rf"^# Command   python train.py -m sweep={sweep} ", text, re.MULTILINE)
    assert re.search(r"^# Expected  \S", text, re.MULTILINE)
