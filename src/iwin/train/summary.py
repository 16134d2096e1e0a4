"""The compact table that a run prints before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import nn

from iwin.models.protocol import WindowTransformer
from iwin.train.optim import IMAGES_PER_RATE
from iwin.train.run_plan import RunPlan
from iwin.train.schedule import Schedule
from iwin.train.teacher import Teacher


@dataclass(frozen=True)
class StageFacts:
    """One stage of a backbone of ours. size, padded: (H, W) of its map as it is and as attention works on it, None
    where it changes from call to call. convolution: side of the kernel beside the attention of its blocks, or None.
    """

    size: tuple[int, int] | None
    padded: tuple[int, int] | None
    window: int
    convolution: int | None
    depth: int
    dim: int
    heads: int


def stage_facts(model: nn.Module) -> list[StageFacts]:
    """What each stage of one of our backbones is; nothing for other models."""
    facts: list[StageFacts] = []
    if not isinstance(model, WindowTransformer):
        return facts
    for stage in model.plan:
        block: Any = model.stages[stage.stage].blocks[0]
        kernel = block.local.conv.kernel_size[0] if block.local is not None else None
        facts.append(StageFacts(stage.size, stage.padded, stage.window, kernel, stage.depth, stage.dim, stage.heads))
    return facts


def stage_rows(model: nn.Module) -> list[str]:
    """A line for each stage of one of our backbones: map, window, padding and convolution; else nothing."""
    rows = []
    for stage in stage_facts(model):
        size = "any size" if stage.size is None else f"{stage.size[0]}x{stage.size[1]}"
        parts = [f"map {size}", f"window {stage.window}"]
        if stage.padded is not None and stage.padded != stage.size:
            parts.append(f"padded to {stage.padded[0]}x{stage.padded[1]}")
        parts.append("no convolution" if stage.convolution is None else f"convolution {stage.convolution}")
        parts.append(f"{stage.depth} x {stage.dim} channels, {stage.heads} heads")
        rows.append(", ".join(parts))
    return rows


def mixed(augment: dict[str, Any]) -> str:
    """How images are augmented, in words."""
    said = [f"crop {augment['scale'][0]:g} to {augment['scale'][1]:g}" if augment.get("scale") else "no crop"]
    for key, label in (("auto_augment", ""), ("erase_prob", "erasing "), ("mixup", "mixup "), ("cutmix", "cutmix ")):
        if augment.get(key):
            said.append(f"{label}{augment[key]}")
    return ", ".join(said)


def chance(counts: np.ndarray, classes: int) -> str:
    """The top-1 accuracy that is to be expected from chance, in words.

    counts: validation images of each class, the last ones left out where they have none.
    """
    most = counts.max() / counts.sum()
    return f"{100 / classes:.3g} % by guessing; {100 * most:.3g} % by always naming the most frequent class"


def new_table() -> Table:
    """A table of what is said of a run: rows of a name and its text."""
    table = Table(show_header=False, box=None, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def model_rows(config: dict[str, Any], model: nn.Module, more: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The model and its stages. more: what else is said of it, after its parameters."""
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    only = f" ({trained:,} of them trained)" if trained < parameters else ""
    name = config["model"].get("name") or config["model"].get("model_name")
    said = [f"{name}, {parameters / 1e6:.2f} M parameters{only}", *more, *(config["model"].get("position") or {})]
    rows = [("model", ", ".join([*said, f"drop-path {config['model']['drop_path_rate']}"]))]
    return rows + [(f"  stage {index}", row) for index, row in enumerate(stage_rows(model))]


def data_row(config: dict[str, Any], counts: str) -> str:
    """The data set. counts: of its images, in words."""
    size = config["data"]["image_size"]
    sides = f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
    return f"{config['data']['name']}, {counts}, {config['data']['num_classes']} classes, {sides} pixels"


def batch_row(plan: RunPlan) -> str:
    """The batch and the number of updates."""
    return (
        f"{plan.global_batch} = {plan.batch_size} x {plan.world} ranks x {plan.accumulation} accumulated; "
        f"{plan.per_epoch:,} updates an epoch, {plan.total:,} in {plan.epochs} epochs"
    )


def optimizer_row(config: dict[str, Any], plan: RunPlan) -> str:
    """The optimizer with the rate in force."""
    optimizer, clip = config["optimizer"], config["trainer"]["gradient_clip_val"]
    layers = f", layer decay {optimizer['layer_decay']:g}" if optimizer["layer_decay"] is not None else ""
    return (
        f"{optimizer['name']}, rate {optimizer['lr'] * plan.scale:.3g} ({optimizer['lr']:g} x {plan.global_batch} / "
        f"{IMAGES_PER_RATE}), weight decay {optimizer['weight_decay']:g}{layers}, "
        + (f"clip {clip}" if clip else "no clipping")
    )


def training_row(config: dict[str, Any], device: str) -> str:
    """On what it is trained, and what else is in force."""
    ema, task = config["callbacks"].get("ema"), config["task"]
    extras = [f"label smoothing {task['label_smoothing']:g}", f"seed {config['seed']}"]
    if task["loss"] == "bce":
        above = task["bce_target_threshold"]
        extras.insert(0, "binary cross-entropy" + (f" of targets above {above:g}" if above is not None else ""))
    extras += [f"average of the weights {ema['decay']:g}"] if ema else []
    extras += ["compiled"] if task["compile"] else []
    return ", ".join([f"{device}, {config['trainer']['precision']}", *extras])


def print_summary(
    console: Console,
    *,
    config: dict[str, Any],
    model: nn.Module,
    data: Any,
    plan: RunPlan,
    schedule: Schedule,
    teacher: Teacher | None,
    device: str,
    folder: str,
) -> None:
    """Model, data, optimisation and where the results go, with the numbers that are in force."""
    table = new_table()
    for row in model_rows(config, model):
        table.add_row(*row)
    counts = f"{len(data.train_dataset):,} to train, {len(data.val_dataset):,} to validate"
    table.add_row("data", data_row(config, counts))
    table.add_row("chance", chance(data.val_dataset.class_counts(), config["data"]["num_classes"]))
    table.add_row("augment", mixed(config["data"]["augment"]))
    table.add_row("batch", batch_row(plan))
    table.add_row("optimizer", optimizer_row(config, plan))
    table.add_row("schedule", schedule.describe(per_epoch=plan.per_epoch, total=plan.total, scale=plan.scale))
    if teacher is not None:
        table.add_row("teacher", teacher.describe())
    table.add_row("training", training_row(config, device))
    table.add_row("results", folder)
    console.print(table)
    console.print()
