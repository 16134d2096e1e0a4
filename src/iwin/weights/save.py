"""Weights of ours on disk: a safetensors file, and beside it a json with the model's configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from iwin.errors import WeightsError
from iwin.weights.read import FORMAT_VERSION, MARK, json_beside

SUFFIX = ".safetensors"


def save_weights(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write `tensors` to `path` and the model's `config` to the json beside it; each appears whole or not at all.

    WeightsError where one of the two is there already, which stays as it is, or cannot be written.
    """
    if path.suffix != SUFFIX:
        raise WeightsError(f"{path}: the name must end with {SUFFIX}")
    described = json_beside(path)
    for file in (path, described):
        if file.exists():
            raise WeightsError(f"{file} exists already: choose another name, or remove it")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format_version": FORMAT_VERSION, "model": dict(config)}, indent=1) + "\n"
    try:
        _write_new(described, text.encode())
        try:
            # One key alone: of several, safetensors decides the order anew each time, and the bytes with it.
            _write_new(path, safetensors.torch.save(kept, metadata={MARK: str(FORMAT_VERSION)}))
        except BaseException:
            described.unlink()
            raise
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror}") from error


def _write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet. FileExistsError where it is, even if it came about meanwhile."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike a rename, a link never replaces a file
    finally:
        partial.unlink(missing_ok=True)
