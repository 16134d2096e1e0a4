"""How many images a data set has: as its index tells, or, where it is not here, as is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from iwin.tools.doctor.job import CLASSES
from iwin.tools.plan.problems import Problems
from iwin.train.build import build_data

# (to train, to validate) by data.name, as the files of conf/data say. Of ImageNet-22K's 14,197,122 images (Fall 2011)
# those that `iwin shards write --val-fraction 0.005` leaves to train; by class, so that it is not exact.
KNOWN = {
    "in1k": (1_281_167, 50_000),
    "in1k_folder": (1_281_167, 50_000),
    "in22k": (14_126_136, 70_986),
}


@dataclass(frozen=True)
class Data:
    """train, validate: images, None where nobody knows. source: index, known or unknown. root: where it was looked for.

    classes: of the model; assumed where nothing tells them.
    """

    name: str
    source: str
    root: str | None
    train: int | None
    validate: int | None
    classes: int
    classes_assumed: bool


def find_data(cfg: DictConfig, problems: Problems) -> tuple[Any, Data]:
    """The data module, opened where the data set is here, and what was found. None for one that cannot be made.

    Sets data.num_classes where it is null. A module whose images are not here has their number alone.
    """
    name, root = str(cfg.data.name), cfg.data.root
    module = problems.of(lambda: build_data(cfg))
    if module is not None:
        train, validate = len(module.train_dataset), len(module.val_dataset)
        return module, Data(name, "index", root, train, validate, int(cfg.data.num_classes), False)
    assumed = cfg.data.num_classes is None
    if assumed:
        cfg.data.num_classes = CLASSES
    known = KNOWN.get(name)
    classes = int(cfg.data.num_classes)
    if known is None:
        found = Data(name, "unknown", root, None, None, classes, assumed)
    else:
        found = Data(name, "known", root, *known, classes, assumed)
    module = problems.of(lambda: instantiate(cfg.data, _recursive_=False, _convert_="all"))
    if module is not None and known is not None:
        module.train_dataset, module.val_dataset = (range(count) for count in known)  # all that is asked of them here
    return module, found
