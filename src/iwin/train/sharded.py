"""Fully sharded data parallel: each rank holds its share of parameters, gradients and optimizer state.

It is torch's `fully_shard` on the blocks and on what is left of the model, below our own launcher. Lightning's
strategies for it will not do: they save past the checkpoint IO, which is what makes ours durable, and one of them
refuses CPUs. Here a checkpoint is gathered at rank 0 and has nothing of shards in it: any trainer resumes it.

Parameters are gathered in float32 and autocast casts them, as without sharding, so that the recipes stay what they are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.overrides.distributed import _sync_module_states
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from iwin.errors import ConfigError
from iwin.models.block import Block
from iwin.train.launcher import Ranks

NAME = "sharded"
# Whose step treats each element by itself: on a share of a parameter they compute what they do on all of it.
ELEMENTWISE = ("adam", "adamw", "sgd", "momentum", "lion")
FOREIGN = ("fsdp", "model_parallel", "deepspeed")  # Lightning's, beginnings of their names


def check_sharded(config: dict[str, Any]) -> None:
    """ConfigError for what does not go together with `trainer=fsdp`, in a resolved configuration of a run."""
    trainer = config["trainer"]
    strategy = str(trainer["strategy"])
    if strategy.startswith(FOREIGN):
        raise ConfigError(
            f"trainer.strategy={strategy} does not save checkpoints as they are kept here: choose trainer=fsdp"
        )
    if strategy != NAME:
        return
    optimizer = config["optimizer"]["name"]
    averaging = [
        f"callbacks.{name}"
        for name, callback in config["callbacks"].items()
        if callback and "Averaging" in str(callback.get("_target_"))
    ]
    refused = {
        f"optimizer.name={optimizer}, which needs whole parameters: take one of {', '.join(ELEMENTWISE)}": (
            optimizer not in ELEMENTWISE
        ),
        "model=timm, which has none of the blocks that are sharded: take one of ours": "name" not in config["model"],
        f"{', '.join(averaging)}, which copies whole weights: leave it out": bool(averaging),
        "task.compile=true: leave it out": bool(config["task"]["compile"]),
        "trainer.precision=16-mixed, whose scaling looks at one rank alone: set bf16-mixed or 32-true": (
            str(trainer["precision"]) == "16-mixed"
        ),
    }
    for what, is_so in refused.items():
        if is_so:
            raise ConfigError(f"trainer=fsdp does not go with {what}; or train with trainer=default")


def shard(model: nn.Module) -> None:
    """Leave to each rank its share of the model's parameters, in place: of every block, and of what is left.

    ConfigError for batch statistics, which the ranks would not have alike.
    """
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            raise ConfigError(f"trainer=fsdp does not go with batch statistics, which {name} has: use trainer=default")
    # By the model's device: torch would take an accelerator that is here, also for a run on the CPU.
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


class Sharded(Ranks):
    """Shards `task.model` among all ranks when a fit is set up; a Trainer.validate alone has it whole on each."""

    def configure_ddp(self) -> None:
        """Shard the model, beginning with rank 0's weights everywhere, as DDP does."""
        task: Any = self.lightning_module
        _sync_module_states(task.model)
        shard(task.model)

    def on_validation_start(self) -> None:
        """Gather all parameters for as long as the validation lasts.

        Ranks may have different numbers of batches in it: they must not wait for each other at each.
        """
        super().on_validation_start()
        for module in self._units():
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()

    def on_validation_end(self) -> None:
        """Let go of the other ranks' parameters."""
        super().on_validation_end()
        for module in self._units():
            module.set_reshard_after_forward(isinstance(module, Block), recurse=False)
            module.reshard()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights, whole and on the host, at rank 0; nothing elsewhere. All ranks call it."""
        return self._gathered(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As the optimizer's own, whole and on the host, at rank 0; nothing elsewhere. All ranks call it."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer._optimizer
        return self._gathered(optimizer.state_dict())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's share of a state that was saved whole."""
        states = []
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            shares = {
                number: {name: share_like(parameters[number], value) for name, value in state.items()}
                for number, state in saved["state"].items()
            }
            states.append({**saved, "state": shares})
        super().load_optimizer_state_dict({"optimizer_states": states})

    def teardown(self) -> None:
        """As Lightning's, but shares stay on their devices: to move them brings nothing, and the mesh is of those."""
        if not self._units():
            super().teardown()
            return
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()

    def _units(self) -> list[FSDPModule]:
        """The modules that were sharded; none before a fit is set up."""
        task: Any = self.lightning_module
        if task is None:  # an error came before it
            return []
        return [module for module in task.modules() if isinstance(module, FSDPModule)]

    def _gathered(self, node: Any) -> Any:
        """`node` with whole tensors on the host; on other ranks empty."""
        if isinstance(node, DTensor):
            whole = node.full_tensor()
            return whole.cpu() if self.is_global_zero else None
        if isinstance(node, dict):
            gathered = copy.copy(node)  # of its own kind, and with its attributes, as a state dict has them
            gathered.update({key: self._gathered(value) for key, value in node.items()})
            return gathered if self.is_global_zero else {}
        return node


def share_like(parameter: nn.Parameter, value: Any) -> Any:
    """What of `value`, a state of the whole parameter, belongs to this rank; others are left as they are."""
    if not (isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape):
        return value
    value = value.to(parameter.device, parameter.dtype)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
