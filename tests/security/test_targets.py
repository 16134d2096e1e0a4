"""A configuration makes and calls what is allowed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from iwin import allowed
from iwin.allowed import check_hydra, check_saved, check_targets
from iwin.errors import ConfigError
from iwin.secrets import redact
from test_conf import CHOICES, compose


@pytest.mark.parametrize("choice", CHOICES)
def test_every_target_of_our_configurations_is_allowed_and_no_key_is_a_secrets(choice: str) -> None:
    cfg = compose(choice, *(["model.model_name=resnet18"] if choice == "model=timm" else []))
    check_targets(cfg)
    config = OmegaConf.to_container(cfg, resolve=True)
    assert redact(config) == config


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "torch.load", "iwin.app.main", "iwin", "", "lightning.Trainers", "timm.create_model.x"),
        *(
            "iwin.train.build.os.system",
            "iwin.data.fetch.sys.exit",
            "iwin.train.fit.instantiate",
            "iwin.train.fit.torch.load",
        ),
        *("iwin.train.fit.fit.__globals__.get", "iwin.train.fit.fit.__class__", "iwin.train.absent"),
        *("lightning.pytorch.callbacks.model_checkpoint.shutil.rmtree", "${oc.env:HOME}", 3, ["os.system"]),
    ],
)
@pytest.mark.parametrize("wrap", [lambda node: node, lambda node: {"a": [1, {"b": node}]}])
def test_no_other_target_is(target: Any, wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigError, match=r"may not be named|cannot be found"):
        check_targets({"data": wrap({"_target_": target})})


def test_a_target_that_is_not_allowed_is_not_imported(tmp_path: Path, monkeypatch, marker: Path) -> None:
    (tmp_path / "trap_module.py").write_text(f"import os\nos.mkdir({str(marker)!r})\ndef call(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"trap_module\.call may not be named"):
        check_targets({"_target_": "trap_module.call"})
    assert not marker.exists()


@pytest.mark.parametrize(
    "override",
    [
        "+callbacks.x={_target_: os.mkdir, path: MARKER}",
        "+logger.x={_target_: pathlib.Path.mkdir, self: MARKER}",
        "+trainer.plugins=[{_target_: os.mkdir, path: MARKER}]",
        "+model.extra={a: [{_target_: os.mkdir, path: MARKER}]}",
        "+data.augment.x={_target_: os.mkdir, path: MARKER}",
        "optimizer._target_=os.mkdir",
        "mixer.blocks=[{attention: {_target_: os.mkdir, path: MARKER}, local: null}]",
        "+hydra.callbacks.x={_target_: os.mkdir, path: MARKER}",
        "+hydra.job_logging.handlers={x: {class: os.mkdir, path: MARKER}}",
        "hydra.launcher._target_=os.mkdir",
    ],
)
def test_the_command_line_names_nothing_else(refused, marker: Path, override: str) -> None:
    message = refused("train", override.replace("MARKER", str(marker)))
    assert "may not be named by a configuration" in message
    assert "allowed_targets.yaml" in message
    assert not marker.exists()


def test_hydras_own_part_takes_no_node_from_elsewhere(refused, marker: Path) -> None:
    evil = f"+evil={{_target_: os.mkdir, path: {marker}}}"
    assert "hydra.callbacks.x" in refused("train", evil, "+hydra.callbacks.x=${evil}")
    assert not marker.exists()


def test_hydras_own_choices_are_allowed() -> None:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    with initialize_config_dir(str(allowed.conf_dir()), version_base="1.3"):
        for override in ("debug=smoke", "hydra/job_logging=default", "sweep=seeds"):
            check_hydra(hydra_compose("train", overrides=[override], return_hydra_config=True).hydra)


def test_a_checkpoint_names_nothing_else(train, refused, tmp_path: Path) -> None:
    file = next((train() / "checkpoints").glob("*.ckpt"))
    check_saved(torch.load(file, weights_only=True)["iwin"]["config"])
    for group, key, value, said in (
        ("optimizer", "_target_", "os.mkdir", "optimizer._target_=os.mkdir"),
        ("callbacks", "x", {"_target_": "os.mkdir"}, "callbacks.x._target_=os.mkdir"),
        ("data", "root", "https://elsewhere/${oc.env:HOME}", "interpolation"),
    ):
        content = torch.load(file, weights_only=True)
        content["iwin"]["config"][group][key] = value
        torch.save(content, tmp_path / "other.ckpt")
        assert said in refused("eval", f"checkpoint={tmp_path}/other.ckpt")


class Own:
    """Stands for something of the user's own."""


def test_a_user_allows_more_in_a_file_of_his_own(allow) -> None:
    config = {"x": {"_target_": "test_targets.Own"}}
    with pytest.raises(ConfigError, match=r"test_targets\.Own may not be named"):
        check_targets(config)
    for text in ("- test_targets.\n", "- other.\n- test_targets.Own\n"):
        allow(text)
        check_targets(config)
    allow("- test_targets.Track\n")
    with pytest.raises(ConfigError, match="may not be named"):
        check_targets(config)
    allow("# nothing yet\n")
    check_targets({})


@pytest.mark.parametrize("text", ["- .\n", "- ''\n", "a: b\n", "- {a: b}\n", "os.\n", "- 'a b.'\n", "[\n"])
def test_the_users_file_must_be_a_list_of_prefixes(allow, text: str) -> None:
    allow(text)
    with pytest.raises(ConfigError, match=r"allowed_targets\.yaml"):
        check_targets({})
