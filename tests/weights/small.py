"""Small models of both families, with every weight drawn, so that nothing is hidden by a zero or a one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import iwin

NUMBERS: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "num_classes": 5}


def small(name: str = "iwin_t", seed: int = 0, **keys: Any) -> iwin.WindowTransformer:
    """A model for 64 x 64 pixels with windows of 4 unless told otherwise; `seed` decides its weights."""
    torch.manual_seed(seed)
    model = iwin.create_model(name, **{"img_size": 64, "window_size": 4, **NUMBERS, **keys}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts have equal names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def outputs(model: torch.nn.Module, side: int = 64) -> torch.Tensor:
    """Logits of two fixed images."""
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(x)


def released(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict of ours with the names of the released models, written out by hand."""
    out = {}
    for name, tensor in state.items():
        name = name.replace("head.fc.", "head.").replace("local.conv.", "dwconv.depthwise.")
        name = name.replace("positions.relative.table", "relative_position_bias_table")
        if name == "positions.absolute.table":
            name, tensor = "absolute_pos_embed", tensor.flatten(1, 2)
        out[name] = tensor
    return out


def save(path: Path, content: Any, legacy: bool = False) -> Path:
    """torch.save in the zip format or the one before it; returns the path."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path
