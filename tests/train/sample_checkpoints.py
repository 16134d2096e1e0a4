"""Small checkpoints for tests, told apart by one number."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch


def content(value: float, size: int = 1000) -> dict[str, Any]:
    """A checkpoint that a run could go on from."""
    return {
        "state_dict": OrderedDict(w=torch.full((size,), value)),
        "loops": {"done": [1, 2.5, None, True, "x"], "shape": torch.Size([2])},
        "optimizer_states": [{"betas": (0.9, 0.999), "dtype": torch.float32, "moment": torch.ones(3, 4).t()}],
    }


def value(path: Path) -> float:
    return float(torch.load(path, weights_only=True)["state_dict"]["w"][-1])
