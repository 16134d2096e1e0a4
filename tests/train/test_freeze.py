"""What is frozen stays as it is, and a pattern that means nothing is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import iwin
from iwin.errors import ConfigError
from iwin.train.freeze import freeze
from iwin.train.optim import Optimizer


def test_frozen_parameters_keep_their_bits_and_the_others_move() -> None:
    torch.manual_seed(0)
    model = iwin.create_model("iwin_micro", num_classes=10)
    frozen = freeze(model, ["patch_embed.*", "layers.[01].*"])
    assert frozen == [
        name for name, _ in model.named_parameters() if name.startswith(("patch_embed", "layers.0", "layers.1"))
    ]
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = Optimizer("adamw", 1e-2, 0.5).build(model, 1.0)
    for _ in range(2):
        model(torch.randn(2, 3, 32, 32)).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name


def test_no_pattern_freezes_nothing() -> None:
    model = iwin.create_model("iwin_micro", num_classes=10)
    assert freeze(model, []) == []
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["layer.0.*"], r"'layer\.0\.\*' matches no parameter of the model; did you mean layers\.0\.\*"),
        (["head.fc.weigth"], r"did you mean head\.fc\.weight"),
        (["norm.*", "nothing"], "'nothing' matches no parameter"),
        (["*"], "leaves no parameter to train"),
        (["layers.*", "patch_embed.*", "norm.*", "head.*"], "leaves no parameter to train"),
        ("head.*", r"task\.freeze must be a list of patterns"),
    ],
)
def test_what_cannot_be_meant_is_an_error_and_changes_nothing(patterns, message: str) -> None:
    model = iwin.create_model("iwin_micro", num_classes=10)
    with pytest.raises(ConfigError, match=message):
        freeze(model, patterns)
    assert all(p.requires_grad for p in model.parameters())


def test_a_run_says_how_much_of_the_model_it_trains(program, tmp_path: Path) -> None:
    changed = (
        "task.freeze=[layers.*]",
        "task.loss=bce",
        "task.bce_target_threshold=0.2",
        "schedule=wsd",
        "optimizer=lion",
    )
    args = ("debug=smoke", "data.image_size=32", "optimizer.layer_decay=0.8", f"paths.runs_dir={tmp_path}")
    printed = " ".join(program("train", *args, *changed).split())
    model = iwin.create_model("iwin_micro", num_classes=10)
    trained = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("layers."))
    assert f"1.64 M parameters ({trained:,} of them trained)" in printed
    assert "lion, rate 3.91e-07 (5e-05 x 4 / 512), weight decay 0.5, layer decay 0.8, clip 5.0" in printed
    assert "no warm-up, constant, in the last 1 down to 3.91e-08 as 1 - sqrt" in printed
    assert "binary cross-entropy of targets above 0.2, label smoothing 0.1" in printed
