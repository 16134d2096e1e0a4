"""A checkpoint as it is now, in host memory, so that training may go on while it is being written."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What loading with weights_only lets through, and never changes.
PLAIN = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, torch.Size)


def snapshot(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
    """A copy of `checkpoint` with its tensors on the host, and what waits until they have all arrived there.

    From a CUDA device the tensors come through pinned memory, in the order of the device's work: what training does
    after this call does not reach them, and nothing waits for them before it must.

    TypeError, with the place, for an object that loading with weights_only would refuse: a checkpoint that cannot
    be loaded is found out when it is saved.
    """
    devices: set[torch.device] = set()
    copied = _copied(checkpoint, "checkpoint", devices)
    events = []
    for device in devices:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))
        events.append(event)

    def arrived() -> None:
        for event in events:
            event.synchronize()

    return copied, arrived


def _copied(node: Any, place: str, devices: set[torch.device]) -> Any:
    if isinstance(node, Tensor):
        return _on_host(node.detach(), devices)
    if type(node) in (dict, OrderedDict):
        made = copy.copy(node)  # of its own kind, and with its attributes: state dicts carry versions in one
        for key, value in node.items():
            if type(key) not in PLAIN:
                raise _refused(key, f"a key of {place}")
            made[key] = _copied(value, f"{place}[{key!r}]", devices)
        return made
    if type(node) in (list, tuple, set):
        return type(node)(_copied(value, f"{place}[{i}]", devices) for i, value in enumerate(node))
    if type(node) in PLAIN:
        return node
    raise _refused(node, place)


def _on_host(tensor: Tensor, devices: set[torch.device]) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor.clone()
    if tensor.device.type != "cuda":
        return tensor.to("cpu", copy=True)
    devices.add(tensor.device)
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _refused(node: Any, place: str) -> TypeError:
    kind = f"{type(node).__module__}.{type(node).__qualname__}"
    return TypeError(f"{place} is a {kind}, which a checkpoint cannot hold: save plain values and tensors")
