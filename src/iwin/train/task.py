"""Classification: the step, the metrics, the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import GradClipAlgorithmType
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

import iwin
from iwin.batch import Batch
from iwin.errors import ConfigError
from iwin.runtime import seed_at
from iwin.train.freeze import freeze as freeze_parameters
from iwin.train.guard import SkipUpdate, UpdateGuard, spoil_gradients
from iwin.train.losses import Loss
from iwin.train.optim import Optimizer
from iwin.train.run_plan import RunPlan
from iwin.train.schedule import Schedule
from iwin.train.teacher import Teacher


class ClassificationTask(lightning.LightningModule):
    """Trains `model` and measures top-1, top-5 (above five classes) and the cross-entropy, whatever is minimised.

    loss, bce_target_threshold, label_smoothing: see losses.py.
    freeze: patterns of parameters that are not trained; see freeze.py.
    teacher: what else is learned from, in training; see teacher.py.
    compile: run the model through torch.compile.
    run_config: the resolved configuration of the run; every checkpoint carries it.

    Drop-path and dropout are drawn from (seed, attempt, epoch, update, micro-batch, rank), so an
    interrupted run and one that is not draw the same.

    An update whose loss or gradient is not finite, on any rank, is skipped on all; see guard.py.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        plan: RunPlan,
        num_classes: int,
        seed: int,
        run_config: dict[str, Any],
        teacher: Teacher | None = None,
        loss: str = "cross_entropy",
        bce_target_threshold: float | None = None,
        label_smoothing: float = 0.1,
        freeze: Sequence[str] = (),
        compile: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ConfigError(f"data.num_classes must be at least 2, got {num_classes}: there is nothing to tell apart")
        self.model = model
        freeze_parameters(model, freeze)
        optimizer.check(model)
        if compile:
            self.model.compile()  # in place: the names of the weights stay
        self.optimizer = optimizer
        self.schedule = schedule
        self.plan = plan
        self.seed = seed
        self.run_config = run_config
        self.loss = Loss(loss, label_smoothing, bce_target_threshold)
        self.teacher = teacher
        self.guard = UpdateGuard(model)
        self.scheduler: Scheduler | None = None
        self.train_top1 = MulticlassAccuracy(num_classes, average="micro")
        self._counted_epoch = -1  # the one that train_top1 has counted last
        self.val_loss = MeanMetric()
        self.val_top = nn.ModuleDict(
            {f"top{k}": MulticlassAccuracy(num_classes, top_k=k, average="micro") for k in (1, 5) if k < num_classes}
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        scaled = self.trainer.precision == "16-mixed"
        optimizer = self.optimizer.build(self.model, self.plan.scale, fused=self.device.type == "cuda" and not scaled)
        if scaled and optimizer.defaults.get("fused"):
            raise ConfigError(
                "optimizer.options.fused=true does not go with trainer.precision=16-mixed: its gradients would be "
                "clipped while still scaled. Leave it out, or use bf16-mixed"
            )
        self.scheduler = self.schedule.build(
            optimizer, per_epoch=self.plan.per_epoch, total=self.plan.total, scale=self.plan.scale
        )
        return optimizer

    def on_train_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # The rate is a function of the update alone: nothing to save, nothing to restore.
        assert self.scheduler is not None
        self.scheduler.step_update(self.global_step)
        if batch.position.micro == 0:
            self.guard.begin()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        seed_at(self.seed, "update", *batch.position, self.global_rank)
        logits = self.model(batch.images)
        loss = self.loss(logits.float(), batch.targets)
        if self.teacher is not None:
            loss = self.teacher.blend(loss, logits.float(), batch.images)
        self.log("train/loss", loss.detach())
        self.log("lr", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))
        if batch.targets.ndim == 1:  # under mixup there is no label to compare with
            if batch.position.epoch != self._counted_epoch:
                self.train_top1.reset()  # a checkpoint of the end of an epoch has all of that epoch in it
                self._counted_epoch = batch.position.epoch
            self.train_top1(logits, batch.targets)
            self.log("train/top1", self.train_top1, on_step=False, on_epoch=True)
        return loss

    def on_before_backward(self, loss: Tensor) -> None:
        spoil_gradients(loss)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        by_value = gradient_clip_algorithm == GradClipAlgorithmType.VALUE
        self.guard.pass_or_skip(optimizer, clip=gradient_clip_val, by_value=by_value, scaler=self._scaler)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: torch.optim.Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        try:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        except SkipUpdate:  # for Lightning the update is done: its count, and with it the schedule, move on
            if self._scaler is not None:
                self._scaler.update()  # which ends the update for it, and lowers the scale

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        logits = self.model(batch.images).float()
        self.val_loss(F.cross_entropy(logits, batch.targets), weight=len(batch.targets))
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True)
        for name, metric in self.val_top.items():
            metric(logits, batch.targets)
            self.log(f"val/{name}", cast(MulticlassAccuracy, metric), on_step=False, on_epoch=True)
        return {"logits": logits}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["iwin"] = {"version": iwin.__version__, "config": self.run_config}
        # What of the epoch has been counted so far, over all ranks: they are here together.
        with self.train_top1.sync_context():
            state = {name: cast(Tensor, value).clone() for name, value in self.train_top1.metric_state.items()}
        checkpoint["train_top1"] = {"epoch": self._counted_epoch, "state": state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        counted = checkpoint.get("train_top1")
        if counted is None:  # of an older version: this number of the epoch then has the rest of it alone
            return
        self._counted_epoch = counted["epoch"]
        for name, value in counted["state"].items():
            # The sum over all ranks goes on in one of them.
            kept = value.to(self.device) if self.global_rank == 0 else torch.zeros_like(value, device=self.device)
            setattr(self.train_top1, name, kept)
