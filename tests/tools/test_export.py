"""An exported model gives the model's outputs for any batch, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import iwin
from iwin.errors import ConfigError
from iwin.tools import export
from iwin.tools.cli import main

SMALL = {"embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 2, 2, 4], "num_classes": 5, "img_size": [32, 48]}


@pytest.fixture(params=["iwin_micro", "swin_micro"])
def checkpoint(request, tmp_path: Path) -> Path:
    """What `iwin convert` writes of a model with random weights."""
    from iwin.weights.save import save_weights

    torch.manual_seed(0)
    model = iwin.create_model(request.param, **SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_weights(tmp_path / "model.safetensors", model.state_dict(), model.config)
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("format", ["torch_export", pytest.param("onnx", marks=pytest.mark.slow)])
def test_export_is_checked_and_leaves_one_file(checkpoint: Path, format: str, capsys) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    before = set(checkpoint.parent.iterdir())
    assert main(["export", f"checkpoint={checkpoint}", f"format={format}"]) == 0
    assert "agrees with the model" in capsys.readouterr().out
    (made,) = set(checkpoint.parent.iterdir()) - before
    assert made.suffix == export.ENDINGS[format]
    assert main(["export", f"checkpoint={checkpoint}", f"format={format}"]) == 2
    assert "exists" in capsys.readouterr().err


def test_an_export_that_differs_is_an_error_and_leaves_nothing(checkpoint: Path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_difference", lambda *_: 0.5)
    before = set(checkpoint.parent.iterdir())
    with pytest.raises(RuntimeError, match=r"differs from the model by 5\.0e-01"):
        export.export(str(checkpoint), "torch_export")
    assert set(checkpoint.parent.iterdir()) == before


def test_bad_keys() -> None:
    with pytest.raises(ConfigError, match="format=onx: did you mean onnx"):
        export.export("x", "onx")
    with pytest.raises(ConfigError, match="checkpoint= is missing"):
        export._keys(["format=onnx"])
    with pytest.raises(ConfigError, match="did you mean checkpoint"):
        export._keys(["checkpoin=a"])
