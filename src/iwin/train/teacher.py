"""Knowledge distillation: a trained model that the student learns from besides the labels.

B images, C classes. The teacher sees the student's own batches, augmented and mixed, under the same autocast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from iwin.allowed import check_saved
from iwin.errors import ConfigError, near_names, number
from iwin.models.protocol import WindowTransformer
from iwin.models.spec import image_size
from iwin.models.zoo import SIZES, create_model
from iwin.train.losses import hard_distillation, soft_distillation
from iwin.train.run_folder import find_checkpoint
from iwin.weights.load import load_pretrained
from iwin.weights.match import Match
from iwin.weights.read import Weights, read_weights
from iwin.weights.report import LoadReport

KINDS = ("soft", "hard")
Values = Sequence[float]


@dataclass(frozen=True)
class Distillation:
    """Where the teacher is from, and how much it counts. The loss is (1 - weight) x labels + weight x teacher.

    model: a name of the zoo or of timm; None where the file carries its configuration (a run, `iwin convert`).
    path: a run folder (the best checkpoint of it, as in evaluation) or a file with weights.
    kind: soft (the teacher's distribution) or hard (its likeliest class); see losses.py.
    temperature: of soft; both distributions are softened by it.

    ConfigError for values that cannot be used.
    """

    model: str | None
    path: str | None
    kind: str = "soft"
    weight: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.path is None:
            raise ConfigError("teacher.path is needed: a run folder or a file with weights (teacher.path=runs/NAME)")
        if not Path(self.path).exists():
            raise ConfigError(f"teacher.path={self.path}: there is no such file or run folder")
        if self.kind not in KINDS:
            raise ConfigError(f"teacher.kind={self.kind}: {near_names(self.kind, KINDS)}")
        if not 0 < number("teacher.weight", self.weight, 0) <= 1:
            raise ConfigError(
                f"teacher.weight must be above 0 and at most 1, got {self.weight}: for none, teacher=none"
            )
        if number("teacher.temperature", self.temperature, 0) == 0:
            raise ConfigError("teacher.temperature must be above 0, got 0")
        if self.kind == "hard" and self.temperature != 1:
            raise ConfigError(
                f"teacher.temperature={self.temperature} does nothing with teacher.kind=hard: leave it at 1"
            )

    def build(self, data: Mapping[str, Any]) -> Teacher:
        """The teacher, on the CPU, for what the configuration `data` of the data set says: num_classes, image_size,
        progressive, mean and std.

        ConfigError where its classes or its image size are others; WeightsError for weights that do not fit.
        """
        assert self.path is not None
        path = find_checkpoint(self.path)
        weights = read_weights(path)
        model, normalised = self._model(weights, data)
        # Asked first: what loading says of another head is advice on initialising a model.
        match = Match(model, weights, {})
        heads = [weights.tensors[match.theirs[name]] for name in match.their_head]
        self._check_classes({head.shape[0] for head in heads if head.ndim}, data["num_classes"])
        report = load_pretrained(model, weights)
        model.eval().requires_grad_(False)
        sizes = [data["image_size"], *(data.get("progressive") or {}).values()]
        for size in sizes:
            self._check_classes({_seen(model, image_size(size), self.path)}, data["num_classes"])
        here = (data["mean"], data["std"])
        return Teacher(model, self, report, None if normalised is None else _between(here, normalised))

    def _model(self, weights: Weights, data: Mapping[str, Any]) -> tuple[nn.Module, tuple[Values, Values] | None]:
        """The model without its weights, and the mean and std of the images that it knows, if that can be told."""
        known = None
        if weights.run_config is not None:
            known = (weights.run_config["data"]["mean"], weights.run_config["data"]["std"])
        if self.model is None:
            if weights.run_config is not None:
                check_saved(weights.run_config)
                node = dict(weights.run_config["model"])
                if "pretrained" in node:
                    node["pretrained"] = False
                return instantiate(node, _recursive_=False, _convert_="all"), known
            if weights.config is not None:
                return WindowTransformer(**weights.config), None
            raise ConfigError(f"teacher.path={self.path} does not say of which model it is: set teacher.model=NAME")
        if self.model in SIZES:
            return create_model(self.model, img_size=data["image_size"], num_classes=data["num_classes"]), known
        if not timm.is_model(self.model.partition(".")[0]):
            near = near_names(self.model, [*SIZES, *timm.list_models()])
            raise ConfigError(f"teacher.model={self.model}: neither we nor timm have such a model; {near}")
        model = timm.create_model(self.model, pretrained=False, num_classes=data["num_classes"])
        own: Any = model.pretrained_cfg
        return model, known or (own["mean"], own["std"])

    def _check_classes(self, classes: set[int], wanted: int) -> None:
        if classes and classes != {wanted}:
            has = " and ".join(map(str, sorted(classes)))
            raise ConfigError(f"teacher.path={self.path} tells {has} classes apart, and the data has {wanted}")


class Teacher:
    """Adds the teacher's part to a loss. In eval mode and without gradients.

    It is no module, so it is no part of the student: of its parameters, checkpoints, averages and what ranks share.

    report: what became of its weights. rescale: (factor, offset), 3 values each, from the images as the student sees
        them to those with the teacher's own mean and std; None where they are the same.
    """

    def __init__(
        self, model: nn.Module, distillation: Distillation, report: LoadReport, rescale: tuple[Values, Values] | None
    ) -> None:
        self.model = model
        self.distillation = distillation
        self.report = report
        self._rescale = None if rescale is None else torch.tensor(rescale).view(2, 1, 3, 1, 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self  # an average of the student's weights copies the task, and needs no second teacher

    def to(self, device: torch.device) -> None:
        """Move it."""
        self.model.to(device)
        if self._rescale is not None:
            self._rescale = self._rescale.to(device)

    def blend(self, loss: Tensor, logits_BC: Tensor, images_BCHW: Tensor) -> Tensor:
        """`loss`, of the labels, with the teacher's on the same images. logits_BC: the student's, float32."""
        says = self.distillation
        with torch.no_grad():
            if self._rescale is not None:
                images_BCHW = images_BCHW * self._rescale[0] + self._rescale[1]
            teacher_BC = self.model(images_BCHW).float()
        if says.kind == "soft":
            learned = soft_distillation(logits_BC, teacher_BC, says.temperature)
        else:
            learned = hard_distillation(logits_BC, teacher_BC)
        return (1 - says.weight) * loss + says.weight * learned

    def describe(self) -> str:
        """In words, for the table of a run."""
        says = self.distillation
        size = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        softened = f" at temperature {says.temperature:g}" if says.kind == "soft" else ""
        scaled = "" if self._rescale is None else ", on images with its own mean and std"
        return (
            f"{says.model or says.path}, {size:.2f} M parameters, {says.kind}{softened}, weight {says.weight:g}{scaled}"
        )


def _seen(model: nn.Module, size: tuple[int, int], path: str | None) -> int:
    """The classes that come out for an image of `size`. ConfigError where the model does not take it."""
    try:
        with torch.no_grad():
            return model(torch.zeros(1, 3, *size)).shape[-1]
    except (ValueError, RuntimeError, AssertionError) as error:  # each library refuses in its own way
        raise ConfigError(
            f"teacher.path={path} does not take the student's images of {size[0]} x {size[1]} pixels: {error}"
        ) from error


def _between(here: tuple[Values, Values], there: tuple[Values, Values]) -> tuple[Values, Values] | None:
    """(image - mean) / std with `here` -> the same with `there`, as factor and offset; None where they are equal."""
    (mean, std), (own_mean, own_std) = here, there
    if [*mean, *std] == [*own_mean, *own_std]:
        return None
    factor = [a / b for a, b in zip(std, own_std, strict=True)]
    offset = [(a - b) / c for a, b, c in zip(mean, own_mean, own_std, strict=True)]
    return factor, offset
