"""Parameter groups follow the released rule, and every parameter is in exactly one."""

from __future__ import annotations

import pytest

import iwin
from iwin.errors import ConfigError
from iwin.train.optim import Optimizer


@pytest.mark.parametrize(
    ("model", "position"), [("iwin_micro", "none"), ("swin_micro", ["absolute", "relative"]), ("iwin_micro", "log_cpb")]
)
def test_no_decay_for_vectors_biases_and_position_tables(model: str, position) -> None:
    net = iwin.create_model(model, position=position, num_classes=10)
    groups = Optimizer("adamw", 5e-4, 0.05).build(net, 2.0).param_groups
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    for name, parameter in net.named_parameters():
        spared = parameter.ndim == 1 or name.endswith(".bias") or ".table" in name or "positions" in name
        assert (id(parameter) not in decayed) == spared, name
    assert all(group["lr"] == pytest.approx(1e-3) for group in groups)


def test_unknown_optimizers_and_options_are_errors() -> None:
    with pytest.raises(ConfigError, match="adamw"):
        Optimizer("adamww", 5e-4, 0.05)
    with pytest.raises(ConfigError, match=r"optimizer\.lr must be above 0, got 0"):
        Optimizer("adamw", 0, 0.05)
    with pytest.raises(ConfigError, match="momentun"):
        Optimizer("adamw", 5e-4, 0.05, {"momentun": 0.9})
