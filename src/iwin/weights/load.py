"""Reading checkpoints safely and loading them strictly."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iwin.errors import WeightsError, near_names


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that a run of ours wrote, on the CPU; tensors and plain data only, nothing is executed.

    WeightsError where there is no such file, where it is damaged, or no checkpoint of a run.
    """
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "iwin" not in checkpoint or "state_dict" not in checkpoint:
        raise WeightsError(f"{path} is no checkpoint of a run: it does not hold the weights and configuration of one")
    return checkpoint


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load `weights` under the model's own names. WeightsError naming what is missing, unknown or of another shape."""
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is unknown; {near_names(name, own)}" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)}, the model has {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WeightsError(f"{source} does not fit this model:\n  " + "\n  ".join(problems[:5]) + more)
    model.load_state_dict(dict(weights))
