"""The compact table that a run prints before its first step."""

from __future__ import annotations

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


def stage_rows(model: nn.Module) -> list[str]:
    """A line for each stage of one of our backbones: map, window, padding and convolution; else nothing."""
    rows: list[str] = []
    if not isinstance(model, WindowTransformer):
        return rows
    for stage in model.plan:
        size = "any size" if stage.size is None else f"{stage.size[0]}x{stage.size[1]}"
        parts = [f"map {size}", f"window {stage.window}"]
        if stage.padded is not None and stage.added_tokens:
            parts.append(f"padded to {stage.padded[0]}x{stage.padded[1]}")
        block: Any = model.stages[stage.stage].blocks[0]
        kernel = block.local.conv.kernel_size[0] if block.local is not None else None
        parts.append("no convolution" if kernel is None else f"convolution {kernel}")
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
    table = Table(show_header=False, box=None, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    only = f" ({trained:,} of them trained)" if trained < parameters else ""
    name = config["model"].get("name") or config["model"].get("model_name")
    table.add_row(
        "model", f"{name}, {parameters / 1e6:.2f} M parameters{only}, drop-path {config['model']['drop_path_rate']}"
    )
    for index, row in enumerate(stage_rows(model)):
        table.add_row(f"  stage {index}", row)
    size = config["data"]["image_size"]
    sides = f"{size} x {size}" if isinstance(size, int) else f"{size[0]} x {size[1]}"
    counts = f"{len(data.train_dataset):,} to train, {len(data.val_dataset):,} to validate"
    table.add_row(
        "data", f"{config['data']['name']}, {counts}, {config['data']['num_classes']} classes, {sides} pixels"
    )
    table.add_row("chance", chance(data.val_dataset.class_counts(), config["data"]["num_classes"]))
    table.add_row("augment", mixed(config["data"]["augment"]))
    table.add_row(
        "batch",
        f"{plan.global_batch} = {plan.batch_size} x {plan.world} ranks x {plan.accumulation} accumulated; "
        f"{plan.per_epoch:,} updates an epoch, {plan.total:,} in {plan.epochs} epochs",
    )
    optimizer, clip = config["optimizer"], config["trainer"]["gradient_clip_val"]
    layers = f", layer decay {optimizer['layer_decay']:g}" if optimizer["layer_decay"] is not None else ""
    table.add_row(
        "optimizer",
        f"{optimizer['name']}, rate {optimizer['lr'] * plan.scale:.3g} ({optimizer['lr']:g} x {plan.global_batch} / "
        f"{IMAGES_PER_RATE}), weight decay {optimizer['weight_decay']:g}{layers}, "
        + (f"clip {clip}" if clip else "no clipping"),
    )
    table.add_row("schedule", schedule.describe(per_epoch=plan.per_epoch, total=plan.total, scale=plan.scale))
    if teacher is not None:
        table.add_row("teacher", teacher.describe())
    ema, task = config["callbacks"].get("ema"), config["task"]
    extras = [f"label smoothing {task['label_smoothing']:g}", f"seed {config['seed']}"]
    if task["loss"] == "bce":
        above = task["bce_target_threshold"]
        extras.insert(0, "binary cross-entropy" + (f" of targets above {above:g}" if above is not None else ""))
    extras += [f"average of the weights {ema['decay']:g}"] if ema else []
    extras += ["compiled"] if config["task"]["compile"] else []
    table.add_row("training", ", ".join([f"{device}, {config['trainer']['precision']}", *extras]))
    table.add_row("results", folder)
    console.print(table)
    console.print()
