"""One run, read from its folder: what it was, how far it is, what it reached."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iwin.durations import parse
from iwin.errors import ConfigError, DataError
from iwin.runtime import config_hash
from iwin.tools.report.documents import Document, read_json, read_yaml
from iwin.train.metrics_csv import read_metrics

CONFIG, PROVENANCE, RESULT, METRICS = "config.yaml", "provenance.json", "result.json", "metrics.csv"
SHORT = 7  # characters of a commit or a hash that are shown
IMAGENET_1K = ("in1k", "in1k_folder")  # the data sets on which the papers' accuracies were measured


@dataclass(frozen=True)
class Result:
    """What an ended run reached: result.json. None is what was not measured.

    Accuracies are in %, of the last validation, the best one, and the one before any update. `flops` are
    multiply-adds of one image, `images_per_s` those of training on all devices together.
    """

    top1: float | None
    best_top1: float | None
    top1_before: float | None
    epochs: float | None
    updates: int | None
    parameters: int | None
    flops: float | None
    images_per_s: float | None
    peak_memory_bytes: float | None
    peak_memory_of: str | None


@dataclass(frozen=True)
class Run:
    """A run's folder. `result` is None while it has not ended.

    `commits` and `data_hashes` have an entry for each that the starts of the run had, mostly one.
    `so_far` says how far it is, as "in epoch 3 of 50". `paper` is the accuracy in % of the recipe's paper and where
    that stands.
    """

    folder: Path
    config: dict[str, Any]
    model: str
    data: str
    image_size: str
    seed: str
    ema: bool
    duration: str
    commits: tuple[str, ...]
    changed_tree: bool
    data_hashes: tuple[str, ...]
    device: str | None
    paper: tuple[float, str] | None
    so_far: str
    result: Result | None

    @property
    def on_imagenet_1k(self) -> bool:
        """Whether it was validated on what the papers' accuracies are of."""
        return self.data in IMAGENET_1K


def is_run(folder: Path) -> bool:
    """Whether the folder is one of a run: the two files are there that each begins with."""
    return (folder / CONFIG).is_file() and (folder / PROVENANCE).is_file()


def read_run(folder: Path) -> Run:
    """The run in a folder that has at least a config.yaml. DataError, naming the file, for what is damaged."""
    config = read_yaml(folder / CONFIG)
    starts = read_json(folder / PROVENANCE).parts("starts") if (folder / PROVENANCE).is_file() else []
    commits = (start.text("code", "commit") for start in starts)
    hashes = (_data_hash(start.mapping("data")) for start in starts)
    model = config.text("model", "name") or config.text("model", "model_name")
    data = config.text("data", "name")
    if not model or not data:
        raise DataError(f"{config.path} is damaged, or of something else: it names no {'data' if model else 'model'}")
    paper = config.number("paper", "top1")
    result = _result(read_json(folder / RESULT)) if (folder / RESULT).is_file() else None
    return Run(
        folder=folder,
        config=config.content,
        model=model,
        data=data,
        image_size=_sides(config),
        seed=str(config.value("seed")),
        ema=bool(config.value("callbacks", "ema")),
        duration=_duration(config),
        commits=tuple(dict.fromkeys(commit[:SHORT] for commit in commits if commit)),
        changed_tree=any(start.value("code", "dirty") is True for start in starts),
        data_hashes=tuple(dict.fromkeys(found for found in hashes if found)),
        device=_device(starts[-1]) if starts else None,
        paper=None if paper is None else (paper, config.text("paper", "source") or "no source given"),
        so_far=_so_far(folder / METRICS, _duration(config)) if result is None else "ended",
        result=result,
    )


def _result(result: Document) -> Result:
    best_is_top1 = result.text("best", "metric") == "val/top1"
    parameters, updates = result.whole("parameters"), result.whole("updates")
    return Result(
        top1=_percent(result.number("last", "val/top1")),
        best_top1=_percent(result.number("best", "score")) if best_is_top1 else None,
        top1_before=_percent(result.number("before", "val/top1")),
        epochs=result.number("epochs"),
        updates=updates,
        parameters=parameters,
        flops=result.number("flops"),
        images_per_s=result.number("images_per_s"),
        peak_memory_bytes=result.number("peak_memory_bytes"),
        peak_memory_of=result.text("peak_memory_of"),
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _sides(config: Document) -> str:
    """`224`, or `224 x 256`; empty where the configuration says no size."""
    size = config.value("data", "image_size")
    return "" if size is None else " x ".join(map(str, size)) if isinstance(size, list) else str(size)


def _duration(config: Document) -> str:
    """As `300ep`; of configurations that have epochs alone, from these; empty where there is neither."""
    epochs = config.value("trainer", "max_epochs")
    return config.text("duration") or ("" if epochs is None else f"{epochs}ep")


def _data_hash(data: dict[str, Any]) -> str | None:
    """A hash of what a start of the run says about its data, wherever that lay: a copied data set has the same."""

    def placeless(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: placeless(value) for key, value in part.items() if key != "root"}
        return [placeless(one) for one in part] if isinstance(part, list) else part

    return config_hash(placeless(data), SHORT) if data else None


def _device(start: Document) -> str:
    """The GPUs of the machine, as `2 x NVIDIA H100`, else `CPU`."""
    gpus = Counter(start.texts("machine", "gpus"))
    return ", ".join(f"{count} x {name}" for name, count in gpus.items()) or "CPU"


def _so_far(metrics: Path, duration: str) -> str:
    """How far the log goes, in the unit of the duration."""
    if not metrics.is_file():
        return "nothing logged"
    table = read_metrics(metrics)
    if not len(table["step"]):
        return "nothing logged"
    epoch, step = table["epoch"][-1], table["step"][-1]
    try:
        length, unit = parse(duration)
    except ConfigError as error:
        if duration:
            raise DataError(f"{metrics.parent / CONFIG} is damaged: {error}") from error
        return f"in epoch {epoch + 1:g}"
    return f"at update {step:g} of {length:g}" if unit == "st" else f"in epoch {epoch + 1:g} of {length:g}"
