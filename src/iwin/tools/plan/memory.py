"""The memory that training takes on a device: what is held all the time is counted, an update is gone through on
fake tensors with the real batch size. Of tensors: what torch.cuda.max_memory_allocated tells on a CUDA device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException as NeedsValues
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedOperatorException

from iwin.models.block import Block
from iwin.tools.plan.storages import FusedAttention, LiveStorages, autocast, empty_on, size_of
from iwin.train.optim import Optimizer
from iwin.train.teacher import Teacher

DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
COMPILING = ("kron", "kronc")  # optimizers that compile their step, which fails without values
GATHERED_BLOCKS = 2  # of a sharded model at a time: the one that is computed and the next
LossOf = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Job:
    """What one rank computes. model: on the meta device. size, eval_size: (images, channels, height, width).

    classes: of soft targets, None where targets are labels. loss: of float logits and targets. teacher: any that
    learns nothing. averaged: whether an average of the weights is kept on the device.
    """

    model: nn.Module
    optimizer: Optimizer
    loss: LossOf
    size: tuple[int, int, int, int]
    eval_size: tuple[int, int, int, int] | None
    classes: int | None
    precision: str
    world: int
    sharded: bool
    averaged: bool
    teacher: Teacher | None


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what they are for; `peak` is the most at once, an estimate.

    optimizer: None where it cannot be counted. buckets: in which the ranks add up gradients; gathered: parameters of
    other ranks that a sharded model has whole. activations: kept for the backward pass, at the end of the forward
    pass. transient: more than all of that, at the worst moment of an update. validation: the peak in it, None where
    there is none.
    """

    device: str
    weights: int
    gradients: int
    optimizer: int | None
    average: int
    teacher: int
    buckets: int
    gathered: int
    images: int
    activations: int
    transient: int
    validation: int | None

    @property
    def held(self) -> int:
        """What is there between two updates."""
        parts = (self.weights, self.gradients, self.optimizer or 0, self.average)
        return sum(parts) + self.teacher + self.buckets + self.gathered

    @property
    def training(self) -> int:
        """The most at once in an update."""
        return self.held + self.images + self.activations + self.transient

    @property
    def peak(self) -> int:
        """The most at once."""
        return max(self.training, self.validation or 0)


@dataclass(frozen=True)
class Pass:
    """Bytes above what is held: of images; at the end of a forward pass; at most in it."""

    images: int
    end: int
    most: int


def estimate(job: Job, device: str) -> Memory | None:
    """The memory on `device`, cpu or cuda; None for a model that torch cannot go through without values.

    The most is there towards the end of the forward pass, when the gradients of the update before are still there.
    Where gradients are accumulated, the backward pass begins with as much and needs a little more, under 3 % for the
    models here; it is not gone through.
    """
    parameters = list(job.model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    share = job.world if job.sharded else 1
    state = optimizer_state(job.model, job.optimizer)
    held: dict[str, Any] = {
        "weights": size_of(parameters) // share + size_of(job.model.buffers()),
        "gradients": size_of(trained) // share,
        "optimizer": None if state is None else state // share,
        "average": size_of([*parameters, *job.model.buffers()]) if job.averaged else 0,
        "teacher": 0 if job.teacher is None else size_of(job.teacher.model.parameters()),
        "buckets": size_of(trained) if job.world > 1 and not job.sharded else 0,
        "gathered": _gathered(job.model) if job.sharded else 0,
    }
    try:
        train, evaluate = _update(job, device), _validation(job, device)
    except (NeedsValues, UnsupportedOperatorException, NotImplementedError):
        return None
    passed = {"images": train.images, "activations": train.end, "transient": train.most - train.end}
    memory = Memory(device=device, validation=None, **held, **passed)
    if evaluate is None:
        return memory
    return replace(memory, validation=memory.held + evaluate.images + evaluate.most)


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> int | None:
    """Bytes that the optimizer keeps for a model on the meta device: it is built, and makes a step there.

    None for one whose step needs values.
    """
    if optimizer.name in COMPILING:
        return None
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    built = optimizer.build(model, 1.0)
    try:
        built.step()
    except RuntimeError:  # torch says so of values, in several ways
        return None
    finally:
        model.zero_grad()
    return size_of(value for state in built.state.values() for value in state.values() if isinstance(value, Tensor))


def _gathered(model: nn.Module) -> int:
    """Of a sharded model: what is no block stays gathered from the forward to the backward pass, and so do some."""
    blocks = [size_of(module.parameters()) for module in model.modules() if isinstance(module, Block)]
    return size_of(model.parameters()) - sum(blocks) + sum(sorted(blocks)[-GATHERED_BLOCKS:])


def _update(job: Job, device: str) -> Pass:
    """Go through the forward pass of a micro-batch. Raises as torch for what needs values."""
    model, teacher = copy.deepcopy(job.model).train(), copy.copy(job.teacher)
    if teacher is not None:
        teacher.model = copy.deepcopy(teacher.model)
    with FakeTensorMode(allow_non_fake_inputs=True), _kernels(device):
        images, targets = _batch(job.size, job.classes, device)
        known = [images, targets]
        for module in [model] if teacher is None else [model, teacher.model]:
            empty_on(module, device)
            known += [*module.parameters(), *module.buffers()]
        with LiveStorages(known) as storages, autocast(device, DTYPES.get(job.precision)):
            logits = model(images)
            loss = job.loss(logits.float(), targets)
            if teacher is not None:
                loss = teacher.blend(loss, logits.float(), images)
            return Pass(size_of([images, targets]), storages.live, storages.peak)


def _validation(job: Job, device: str) -> Pass | None:
    """Go through a batch of validation; None where there is none. Raises as `_update`."""
    if job.eval_size is None:
        return None
    model = copy.deepcopy(job.model).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), _kernels(device), torch.no_grad():
        empty_on(model, device)
        images, targets = _batch(job.eval_size, None, device)
        known = [*model.parameters(), *model.buffers(), images, targets]
        with LiveStorages(known) as storages, autocast(device, DTYPES.get(job.precision)):
            model(images).float()
            return Pass(size_of([images, targets]), storages.live, storages.peak)


def _kernels(device: str) -> Any:
    return FusedAttention() if device == "cuda" else nullcontext()


def _batch(size: tuple[int, int, int, int], classes: int | None, device: str) -> tuple[Tensor, Tensor]:
    images = torch.empty(size, device=device).contiguous(memory_format=torch.channels_last)
    if classes is None:
        return images, torch.empty(size[0], dtype=torch.int64, device=device)
    return images, torch.empty(size[0], classes, device=device)
