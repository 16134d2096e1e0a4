"""The memory of tensors as a computation goes on, without tensors: on fake ones, which have shapes and no values."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALIGNMENT = 8  # elements to which CUDA's fused attention with a mask has its rows padded


class LiveStorages(TorchDispatchMode):
    """live, peak: bytes of all storages that operations make while this is entered, and of those `add` is told of.

    known: tensors whose storages do not count. Each other one counts once, whatever views there are of it, from the
    operation that makes it until nothing refers to it. What an operation allocates inside of itself is not seen.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._bytes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def add(self, tensors: Iterable[Any]) -> None:
        """Count these tensors, where they are not counted yet."""
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._bytes:
                    self._bytes[key] = storage.nbytes()
                    self.live += self._bytes[key]
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self.live -= self._bytes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.add(tree_leaves(made))
        return made


class FusedAttention(TorchFunctionMode):
    """Attention as CUDA computes it: in one kernel that keeps queries, keys, values, the result and a number a row.

    Fake tensors of a CUDA device would have it decomposed where there is no such device.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _attend(
        q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **other: Any
    ) -> Tensor:
        if attn_mask is not None:
            tokens = attn_mask.shape[-1]
            if tokens % ALIGNMENT:  # torch pads it, which makes all of what was expanded
                attn_mask = F.pad(attn_mask, (0, -tokens % ALIGNMENT))[..., :tokens]
            attn_mask = attn_mask.expand(q.shape[0], q.shape[1], q.shape[2], tokens)
        attend: Any = torch.ops.aten._scaled_dot_product_efficient_attention
        return attend(q, k, v, attn_mask, True, dropout_p, **other)[0]


@contextmanager
def autocast(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """torch.autocast, which refuses a device that is not here. None: no autocast."""
    if dtype is None:
        yield
        return
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


def empty_on(module: nn.Module, device: str) -> None:
    """Give a module, in place, new tensors of the same shapes on `device`; inside of a FakeTensorMode fake ones."""
    module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of these tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
