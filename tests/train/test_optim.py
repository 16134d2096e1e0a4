"""Parameter groups follow the released rule, and every parameter is in exactly one."""

from __future__ import annotations

import pytest
import torch

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


def test_how_steps_are_computed_is_not_taken_from_a_checkpoint() -> None:
    """Fused kernels are chosen by device: a run goes on from a GPU on a CPU, and the other way round."""

    def trained(fused: bool) -> torch.optim.Optimizer:
        net = torch.nn.Linear(3, 2)
        optimizer = Optimizer("adamw", 5e-4, 0.05).build(net, 1.0, fused=fused)
        net(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return optimizer

    for here, there in ((True, False), (False, True)):
        optimizer, other = trained(here), trained(there)
        optimizer.load_state_dict(other.state_dict())
        assert all(bool(group["fused"]) is here for group in optimizer.param_groups)
        assert all(bool(group["fused"]) is there for group in other.param_groups)
        optimizer.step()
        assert all(state["step"] == 2 for state in optimizer.state.values())


def test_the_options_choose_the_kernels_where_they_speak_of_them() -> None:
    net = torch.nn.Linear(3, 2)
    for name, options, fused in (("adamw", {}, True), ("adamw", {"foreach": True}, False), ("lamb", {}, False)):
        optimizer = Optimizer(name, 5e-4, 0.05, options).build(net, 1.0, fused=True)
        assert bool(optimizer.defaults.get("fused")) is fused
