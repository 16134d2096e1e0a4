"""Optimizers as configured: options that fit, kernels by device, the same bits after a resume."""

from __future__ import annotations

import io

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import iwin
from iwin.conf import conf_dir, options
from iwin.errors import ConfigError
from iwin.train.optim import Optimizer
from iwin.train.snapshot import snapshot


def configured(name: str) -> Optimizer:
    return instantiate(OmegaConf.load(conf_dir() / "optimizer" / f"{name}.yaml"), _convert_="all")


def micro() -> nn.Module:
    torch.manual_seed(0)
    return iwin.create_model("iwin_micro", num_classes=10, position=["absolute", "relative"])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *updates: int) -> None:
    for update in updates:
        generator = torch.Generator().manual_seed(update)
        images = torch.randn(4, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (4,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def on_disk(state: dict) -> dict:
    """As a checkpoint of a run is written and read."""
    file = io.BytesIO()
    torch.save(snapshot(state)[0], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", options("optimizer"))
@pytest.mark.parametrize("layer_decay", [None, 0.8])
def test_a_configured_optimizer_trains_and_goes_on_to_the_same_bits(name: str, layer_decay: float | None) -> None:
    given = configured(name)
    given = Optimizer(given.name, given.lr, given.weight_decay, given.options, layer_decay)
    model = micro()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = given.build(model, 2.0)
    train(model, optimizer, 1, 2)
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved >= {key for key in before if key.endswith(".weight")}
    resumed = micro()
    resumed.load_state_dict(on_disk(dict(model.state_dict())))
    other = given.build(resumed, 2.0)
    other.load_state_dict(on_disk(optimizer.state_dict()))
    train(model, optimizer, 3, 4)
    train(resumed, other, 3, 4)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in resumed.state_dict().items())
    assert all(torch.isfinite(value).all() for value in model.parameters())


def test_muon_has_the_matrices_and_adamw_the_rest() -> None:
    model = micro()
    optimizer = configured("muon").build(model, 1.0)
    train(model, optimizer, 1)
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and not any(part in name for part in ("patch_embed", "head", "positions", "local"))
        assert optimizer.state[parameter]["use_muon"] == matrix, name
        assert ("momentum_buffer" in optimizer.state[parameter]) == matrix, name
        assert ("exp_avg_sq" in optimizer.state[parameter]) != matrix, name


@pytest.mark.parametrize(
    "name", ["adabelief", "adan", "adopt", "cadamw", "lambc", "lars", "madgrad", "nadamw", "radam"]
)
def test_others_of_timm_go_by_their_name(name: str) -> None:
    model = micro()
    optimizer = Optimizer(name, 1e-3, 0.05, {"betas": [0.9, 0.98, 0.99] if name == "adan" else [0.9, 0.98]})
    train(model, optimizer.build(model, 1.0), 1, 2)
    assert all(torch.isfinite(value).all() for value in model.parameters())


def test_unknown_optimizers_and_options_are_errors() -> None:
    with pytest.raises(ConfigError, match="adamw"):
        Optimizer("adamww", 5e-4, 0.05)
    with pytest.raises(ConfigError, match=r"optimizer\.lr must be above 0, got 0"):
        Optimizer("adamw", 0, 0.05)
    with pytest.raises(ConfigError, match="momentun"):
        Optimizer("adamw", 5e-4, 0.05, {"momentun": 0.9})
    with pytest.raises(ConfigError, match="Invalid beta"):
        Optimizer("adamw", 5e-4, 0.05, {"betas": [0.9, 1.5]})
    with pytest.raises(ConfigError, match="second derivatives"):
        Optimizer("adahessian", 5e-4, 0.05)
    with pytest.raises(ConfigError, match=r"optimizer\.options\.layer_decay has no place here"):
        Optimizer("adamw", 5e-4, 0.05, {"layer_decay": 0.8})
    for decay in (0, 1.1, -0.5, "0.8"):
        with pytest.raises(ConfigError, match=r"optimizer\.layer_decay must be"):
            Optimizer("adamw", 5e-4, 0.05, layer_decay=decay)


@pytest.mark.skipif(torch.cuda.is_available(), reason="they may be there")
def test_an_optimizer_that_is_not_here_is_an_error() -> None:
    with pytest.raises(ConfigError, match="fusedlamb cannot be made"):
        Optimizer("fusedlamb", 5e-4, 0.05)


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
    for name, given, fused in (("adamw", {}, True), ("adamw", {"foreach": True}, False), ("lamb", {}, False)):
        optimizer = Optimizer(name, 5e-4, 0.05, given).build(net, 1.0, fused=True)
        assert bool(optimizer.defaults.get("fused")) is fused
