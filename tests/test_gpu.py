"""What only a CUDA device can show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import iwin
from iwin.app import main
from iwin.models.attend import attend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_agrees_with_the_cpu(biased: bool, masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, 2, 49, 32)
    bias = torch.randn(2, 49, 49) if biased else None
    mask = (torch.rand(3, 49, 49) > 0.4) | torch.eye(49, dtype=torch.bool) if masked else None
    on_gpu = attend(*(None if x is None else x.cuda() for x in (q, k, v, bias, mask)))
    assert torch.allclose(on_gpu.cpu(), attend(q, k, v, bias, mask), atol=1e-5)


@pytest.mark.parametrize("name", ["iwin_t", "swin_t"])
def test_outputs_agree_with_the_cpu(name: str) -> None:
    torch.manual_seed(0)
    model = iwin.create_model(name, num_classes=10).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = model(x)
        assert torch.allclose(model.cuda()(x.cuda()).cpu(), expected, atol=2e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("compile", [False, True])
def test_training_in_bfloat16_learns(monkeypatch, tmp_path: Path, capsys, compile: bool) -> None:
    args = [
        f"task.compile={compile}",
        "trainer.precision=bf16-mixed",
        "duration=8ep",
        f"paths.runs_dir={tmp_path}",
    ]
    monkeypatch.setattr(sys, "argv", ["train.py", "trainer.accelerator=cuda", *args])
    main("train")
    (folder,) = tmp_path.iterdir()
    last = (folder / "metrics.csv").read_text().strip().splitlines()[-1].split(",")
    assert float(last[5]) > 0.9, last
