"""An update whose loss or gradient is not finite changes nothing: no weight, no optimizer state, no statistics.

One number decides: the norm of the whole gradient, which clipping needs anyway. Gradients are summed over ranks
before it is taken, so it is the same on every rank, and a NaN on one of them withholds the update on all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm


class SkipUpdate(Exception):
    """Raised inside an optimizer's closure: the way out before the optimizer has changed anything.

    Gradients set to None would not do: Lamb and Adan, among others, count a step for them.
    """


def spoil_gradients(loss: Tensor) -> None:
    """Make sure that a loss which is not finite has gradients which are not finite either.

    A loss can be NaN and its gradients sound, where what made it NaN has no part in them. Its own value is
    therefore mixed into what flows back: 1 + 0 * loss is exactly 1 where the loss is finite, and NaN where it is
    not. So the other ranks need not be told of it: they get it with the gradients.
    """
    value = loss.detach()
    loss.register_hook(lambda gradient: gradient * (1 + 0 * value))


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer's kernels can be told on the device not to step: torch's fused Adam and AdamW.

    The fused SGD can be told too, but where its very first step is withheld, its momentum is taken as begun.
    """
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)


class UpdateGuard:
    """Looks at each update between its gradient and its step.

    `skipped`, after `pass_or_skip`: a bool tensor without dimensions, on the gradients' device. It says whether
    the update was withheld and ought to be counted.

    Where the optimizer `skips_on_device`, nothing is read from the device. Others on an accelerator wait for
    the verdict once an update; on a CPU there is nothing to wait for.
    """

    def __init__(self, model: nn.Module) -> None:
        self.skipped: Tensor | None = None
        # A forward pass moves the statistics of a batch norm before anything is known. Window attention has none.
        norms = [module for module in model.modules() if isinstance(module, _NormBase)]
        self._statistics = [buffer for module in norms for buffer in module.buffers(recurse=False)]
        self._kept: list[Tensor] = []

    def begin(self) -> None:
        """An update begins: keep what its forward passes may change."""
        self._kept = [buffer.clone() for buffer in self._statistics]

    def pass_or_skip(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        clip: float | None,
        by_value: bool = False,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Clip the gradients of a sound update; raise SkipUpdate, or tell the optimizer's kernels, for another.

        clip: the largest norm of the whole gradient, or with `by_value` the largest size of its elements; None or
            0 clips nothing.
        scaler: of fp16, after it has unscaled the gradients. That they overflow is its way to find the scale, and
            not counted; but at a scale of 1 there is nothing more that it could do about it, and it is.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if isinstance(norm, DTensor):  # of gradients that are shared out: so far each rank knows of its share alone
            norm = norm.full_tensor()
        self.skipped = ~torch.isfinite(norm)
        for buffer, kept in zip(self._statistics, self._kept, strict=True):
            buffer.copy_(torch.where(self.skipped, kept, buffer))
        if skips_on_device(optimizer):
            optimizer.found_inf = self.skipped.float()  # type: ignore[attr-defined]  # what the fused kernels ask
        elif self.skipped:
            if scaler is not None and scaler.get_scale() > 1:
                self.skipped = torch.zeros_like(self.skipped)
            raise SkipUpdate
        if clip and by_value:
            clip_grad_value_(parameters, clip)
        elif clip:
            clip_grads_with_norm_(parameters, clip, norm)
