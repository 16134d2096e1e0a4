"""The plan for people, in the words of the table that a run begins with, and as plain data for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from iwin.tools.doctor.finding import gigabytes
from iwin.tools.plan.data import Data
from iwin.tools.plan.drawing import COLUMNS, draw
from iwin.tools.plan.duration import unknown
from iwin.tools.plan.make import Plan
from iwin.tools.plan.memory import Memory
from iwin.tools.plan.standing import Standing
from iwin.train.run_folder import shown
from iwin.train.summary import batch_row, data_row, mixed, model_rows, new_table, optimizer_row, training_row

KINDS = {
    "cuda": "a CUDA device, of tensors, an estimate (trainer.accelerator=cpu tells it for a CPU)",
    "cpu": "a CPU, of tensors, an estimate",
}
# glibc's heap: measured for iwin_t and swin_t, see tests/tools/test_plan_memory.py.
HEAP = (
    "the process has its libraries besides, and glibc keeps up to 40 % more in holes between blocks; with "
    "MALLOC_MMAP_THRESHOLD_=65536 in the environment it does not"
)
PARTS = ("weights", "gradients", "optimizer", "average", "teacher", "buckets", "gathered", "images", "activations")
Row = tuple[str, str]


def show(plan: Plan, console: Console) -> None:
    """Print all of it; what training would fail with comes last."""
    table = new_table()
    for row in rows(plan):
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)
    if plan.weights is not None:
        console.print(f"\n{plan.weights}", highlight=False, markup=False, soft_wrap=True)
    for note in plan.notes:
        console.print(f"Note: {note}.", highlight=False, markup=False, soft_wrap=True)
    if plan.problems:
        console.print("\nTraining would fail:", highlight=False, markup=False)
        for problem in plan.problems:
            console.print(f"  {problem}", highlight=False, markup=False, soft_wrap=True)


def rows(plan: Plan) -> list[Row]:
    """Name and text of each line."""
    config, made = plan.config, []
    if plan.model is not None:
        flops = plan.model.flops
        counted = "FLOPs unknown" if flops is None else f"{flops / 1e9:.2f} GFLOPs an image"
        made += model_rows(config, plan.model.module, [counted])
    made.append(("data", data_row(config, _counts(plan.data))))
    made.append(("augment", mixed(config["data"]["augment"])))
    if plan.run is not None:
        made.append(("batch", batch_row(plan.run)))
        made.append(("optimizer", optimizer_row(config, plan.run)))
    if plan.curve is not None:
        made.append(("schedule", plan.curve.said))
        lines = draw(plan.curve)
        most = f"{max(plan.curve.rates):.3g}"
        made += [("", f"{line:{COLUMNS}s} {most if index == 0 else ''}".rstrip()) for index, line in enumerate(lines)]
    if plan.teacher is not None:
        made.append(("teacher", plan.teacher.describe()))
    ranks = plan.ranks
    made.append(
        ("training", training_row(config, f"{ranks.world} ranks = {ranks.nodes} nodes x {ranks.devices} devices"))
    )
    if plan.memory is not None:
        made.append(("memory", f"about {gigabytes(plan.memory.peak)} on {KINDS[plan.memory.device]}"))
        made.append(("", _parts(plan.memory)))
        if plan.memory.device == "cpu":
            made.append(("", HEAP))
    made.append(("time", _time(plan)))
    if plan.standing is not None:
        made += _standing(plan.standing)
    return made


def _counts(data: Data) -> str:
    if data.train is None or data.validate is None:
        return f"not found in {data.root}"
    said = f"{data.train:,} to train, {data.validate:,} to validate"
    return said if data.source == "index" else f"{said} (known of it; not found in {data.root})"


def _parts(memory: Memory) -> str:
    said = [f"{name} {gigabytes(getattr(memory, name))}" for name in PARTS if getattr(memory, name)]
    if memory.optimizer is None:
        said.append("optimizer not counted, as its step needs values")
    said.append(f"in passing {gigabytes(memory.transient)}")
    if memory.validation is not None and memory.validation > memory.training:
        said.append(f"and in validation {gigabytes(memory.validation)}, the most")
    return ", ".join(said)


def _time(plan: Plan) -> str:
    time = plan.time
    if time is None:
        why = "the number of updates is unknown" if plan.throughput is not None else None
        model = plan.config["model"]
        return why or unknown(str(model.get("name")), plan.config["data"]["image_size"])
    speed = f"{time.images_per_s:,.0f} images/s of each device, {time.source}; without validation"
    return f"{_hours(time.hours)}, {time.device_hours:,.1f} device hours at {speed}"


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def _standing(standing: Standing) -> list[Row]:
    made = [("results", shown(standing.folder))]
    for folder, why in standing.passed_over.items():
        made.append(("", f"the run in {folder} {why} and stays as it is"))
    if standing.start == "begin":
        made.append(("start", "a new run would begin"))
    else:
        place = "its beginning" if standing.checkpoint is None else standing.checkpoint.name
        made.append(("start", f"the unfinished run there would go on from {place}"))
    return made + [("", note) for note in standing.notes]


def as_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain dicts, lists, numbers and strings; sizes in bytes, rates per update, times in hours."""
    model, run, weights, standing = plan.model, plan.run, plan.weights, plan.standing
    name = plan.config["model"].get("name") or plan.config["model"].get("model_name")
    return {
        "model": None
        if model is None
        else {
            "name": name,
            "parameters": model.parameters,
            "trained": model.trained,
            "flops": model.flops,
            "stages": [asdict(stage) for stage in model.stages],
        },
        "data": asdict(plan.data),
        "ranks": {"devices": plan.ranks.devices, "nodes": plan.ranks.nodes, "world": plan.ranks.world},
        "batch": None if run is None else {**asdict(run), "global_batch": run.global_batch, "updates": run.total},
        "rate": None if run is None else plan.config["optimizer"]["lr"] * run.scale,
        "schedule": None if plan.curve is None else asdict(plan.curve),
        "memory": None
        if plan.memory is None
        else {
            **asdict(plan.memory),
            "held": plan.memory.held,
            "training": plan.memory.training,
            "peak": plan.memory.peak,
            "of": "tensors, an estimate",
        },
        "time": None if plan.time is None else asdict(plan.time),
        "weights": None
        if weights is None
        else {
            "source": weights.source,
            "names": weights.naming,
            "loaded": weights.loaded,
            "resized": weights.resized,
            "recomputed": list(weights.recomputed),
            "initialised": weights.initialised,
            "ignored": weights.ignored,
            "notes": list(weights.notes),
        },
        "teacher": None if plan.teacher is None else plan.teacher.describe(),
        "run": None
        if standing is None
        else {
            "folder": str(standing.folder),
            "start": standing.start,
            "checkpoint": None if standing.checkpoint is None else str(standing.checkpoint),
            "passed_over": standing.passed_over,
            "notes": list(standing.notes),
        },
        "notes": plan.notes,
        "problems": plan.problems,
    }
