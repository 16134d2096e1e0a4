"""Evaluation of a checkpoint: the numbers that training logged for it, and what lies behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from iwin.allowed import check_saved, check_targets
from iwin.batch import Batch
from iwin.conf import check_keys
from iwin.errors import ConfigError
from iwin.runtime import provenance
from iwin.secrets import redact
from iwin.train.build import build_data, build_model, build_trainer, plain_config, share_cores
from iwin.train.checks import check_trainer
from iwin.train.plots import confusion, contact_sheet
from iwin.train.run_folder import find_checkpoint, shown
from iwin.train.run_plan import RunPlan
from iwin.weights.load import load_pretrained
from iwin.weights.read import Weights, read_run_checkpoint

EVALUATED = ("val",)
PARTS = ("mixer", "position", "downsample")
RECIPES = ("experiment", "debug", "sweep")
FOLLOWED = {"model": PARTS, "data": ("augment", "seed")}


class Predictions(Callback):
    """Keeps what was predicted for every validation image, in the order of the data set."""

    def __init__(self) -> None:
        self.indices: list[torch.Tensor] = []
        self.truth: list[torch.Tensor] = []
        self.predicted: list[torch.Tensor] = []
        self.confidence: list[torch.Tensor] = []

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        confidence, predicted = outputs["logits"].softmax(dim=-1).max(dim=-1)
        for kept, values in (
            (self.indices, batch.indices),
            (self.truth, batch.targets),
            (self.predicted, predicted),
            (self.confidence, confidence),
        ):
            kept.append(values.cpu())

    def table(self) -> dict[str, np.ndarray]:
        """indices, truth, predicted (N,) int64, confidence (N,) float32 in [0, 1]."""
        columns = ("indices", "truth", "predicted", "confidence")
        return {name: torch.cat(getattr(self, name)).numpy() for name in columns}


def saved_config(saved: dict[str, Any], cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The configuration that a checkpoint carries, with what the command line says about it on top.

    A chosen group replaces the saved one as a whole; a key replaces that key.
    """
    config = OmegaConf.create({**saved, "init": {}})  # the weights are the checkpoint's, whatever they began from
    OmegaConf.set_struct(config, True)
    given = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    keys = [override.key_or_group for override in OverridesParser.create().parse_overrides(overrides)]
    for key in keys:
        group = key.split(".")[0]
        if key == "checkpoint" or group == "hydra":
            continue
        if group == "init":
            raise ConfigError(f"{key}= and checkpoint= both name weights: give one of them")
        if group in RECIPES:
            raise ConfigError(
                f"{key}= is a recipe for training: with checkpoint= give the single keys that shall differ"
            )
        value = OmegaConf.select(given, key)
        # What the saved configuration had taken over from another place follows that place still.
        followers = [(key, key)]
        followers += [(f"{name}.{key}", key) for name, parts in FOLLOWED.items() if group in parts]
        if key == "data.image_size" and "img_size" in config.model:
            followers.append(("model.img_size", key))
        for place, origin in followers:
            if place == origin and group in PARTS:
                continue
            if place == origin or place not in keys:
                with open_dict(config):
                    OmegaConf.update(config, place, value, merge=False)
    return config


def evaluate(cfg: DictConfig) -> None:
    """Validate a run's checkpoint, or a model with the weights that `init` names; write the results beside the file."""
    console = Console()
    overrides = list(HydraConfig.get().overrides.task)
    weights: Weights | None = None
    if cfg.checkpoint is not None:
        path = find_checkpoint(cfg.checkpoint)
        weights = read_run_checkpoint(path)
        assert weights.run_config is not None
        check_saved(weights.run_config)
        cfg = saved_config(weights.run_config, cfg, overrides)
        check_targets(cfg)
        check_keys(cfg)  # of the checkpoint's: a key that this version does not have is named
    elif not cfg.init:
        raise ConfigError(
            "checkpoint= is needed: a run folder, or a checkpoint file of one. For other weights choose their model: "
            "model=NAME init=checkpoint init.path=FILE"
        )
    cfg.trainer.devices = 1
    cfg.trainer.num_nodes = 1
    cfg.trainer.strategy = "auto"
    check_trainer(plain_config(cfg.trainer))
    data = build_data(cfg, EVALUATED)
    model = build_model(cfg)
    if weights is None:
        path = Path(cfg.init.path).absolute()
    else:
        console.print(str(load_pretrained(model, weights)), highlight=False, markup=False, soft_wrap=True)

    predictions = Predictions()
    trainer = build_trainer(cfg, callbacks=[predictions, instantiate(cfg.callbacks.progress)], logger=False)
    share_cores(trainer, cfg.data.num_workers)  # as in training: sums in another order are other last digits
    task = instantiate(cfg.task, _partial_=True)(
        model=model,
        optimizer=instantiate(cfg.optimizer, _convert_="all"),
        schedule=instantiate(cfg.schedule),
        plan=RunPlan(data.eval_batch_size, world=1, accumulation=1, per_epoch=1, epochs=1),
        num_classes=cfg.data.num_classes,
        seed=cfg.seed,
        run_config=redact(plain_config(cfg)),
    )
    console.print(f"Evaluating {shown(path)}", soft_wrap=True)
    (metrics,) = trainer.validate(task, datamodule=data, verbose=False)
    folder = _free_folder(path)
    _write(folder, path, metrics, predictions.table(), data, cfg)
    for name, value in metrics.items():
        console.print(f"{name:9s} {value!r}", highlight=False)
    console.print(f"Results   {shown(folder)}", soft_wrap=True)


def _free_folder(checkpoint: Path) -> Path:
    """A new folder for the results: eval/<checkpoint> in the run folder, or beside a file from elsewhere."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    number = 1
    while True:
        folder = run / "eval" / (checkpoint.stem if number == 1 else f"{checkpoint.stem}-{number}")
        if not folder.exists():
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise ConfigError(f"cannot write the results to {folder}: {error.strerror}") from error
            return folder
        number += 1


def _write(
    folder: Path,
    checkpoint: Path,
    metrics: Any,
    table: dict[str, np.ndarray],
    data: Any,
    cfg: DictConfig,
) -> None:
    classes = data.classes or [str(label) for label in range(cfg.data.num_classes)]
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (table["truth"], table["predicted"]), 1)
    wrong = np.flatnonzero(table["truth"] != table["predicted"])
    report: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "metrics": dict(metrics),
        "images": len(table["truth"]),
        "wrong": [
            {
                "key": data.val_dataset.key(int(table["indices"][i])),
                "truth": classes[table["truth"][i]],
                "predicted": classes[table["predicted"][i]],
                "confidence": float(table["confidence"][i]),
            }
            for i in wrong
        ],
        "provenance": provenance(cfg.seed, data.describe(EVALUATED)),
    }
    (folder / "eval.json").write_text(json.dumps(report, indent=1) + "\n")
    title = f"{cfg.model.get('name') or cfg.model.model_name} on {cfg.data.name}"
    confusion(counts, classes, folder / "confusion.png", title)
    most = wrong[np.argsort(-table["confidence"][wrong])][:40]
    seen = data.val_dataset
    images = [seen.transform(seen.encoded(int(index))) for index in table["indices"][most]]
    contact_sheet(
        np.stack(images) if images else np.zeros((0, 1, 1, 3), dtype=np.uint8),
        table["truth"][most],
        table["predicted"][most],
        table["confidence"][most],
        [report["wrong"][int(np.flatnonzero(wrong == i)[0])]["key"] for i in most],
        classes,
        folder / "misclassified.png",
        f"{title}: {len(wrong)} of {len(table['truth'])} wrong",
    )
