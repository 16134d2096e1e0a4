from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import iwin
from iwin.errors import WeightsError
from iwin.weights import migrate as module
from iwin.weights.digest import digest_file
from iwin.weights.migrate import migrate
from iwin.weights.read import read_run_checkpoint, read_weights


@pytest.fixture
def renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What later versions may bring, this one being 0.10.0."""
    monkeypatch.setattr(iwin, "__version__", "0.10.0")
    table = {"0.10.0": {"model.width": "model.size.embed_dim"}, "0.9.0": {"model.dim": "model.width", "lr": "optim.lr"}}
    monkeypatch.setattr(module, "RENAMED", table)


@pytest.mark.parametrize(
    ("version", "config", "expected"),
    [
        ("0.8.2", {"model": {"dim": 1, "x": 2}}, {"model": {"size": {"embed_dim": 1}, "x": 2}}),
        ("0.8.2", {"model": {}, "lr": 3}, {"model": {}, "optim": {"lr": 3}}),
        ("0.9.0", {"model": {"width": 1}, "lr": 3}, {"model": {"size": {"embed_dim": 1}}, "lr": 3}),
        ("0.9.1.dev0", {"model": {"width": 1}}, {"model": {"size": {"embed_dim": 1}}}),
        ("0.10.0", {"model": {"width": 1}}, {"model": {"width": 1}}),
        ("0.1", {"seed": 0}, {"seed": 0}),
    ],
)
def test_renamed_keys_are_followed_from_version_to_version(
    renamed: None, version: str, config: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = repr(config)
    assert migrate(config, version) == expected
    assert repr(config) == before


@pytest.mark.parametrize("version", ["0.10.1", "0.11", "1.0.0"])
def test_what_a_newer_version_wrote_is_refused(renamed: None, version: str) -> None:
    with pytest.raises(WeightsError, match=rf"written by iwin {version}, and this is 0.10.0.*update iwin"):
        migrate({}, version)


@pytest.mark.parametrize("version", [None, 1, "", "new"])
def test_a_version_that_is_none_is_refused(version: Any) -> None:
    with pytest.raises(WeightsError, match=r"is .*, which is none"):
        migrate({}, version)


def test_two_names_of_one_key_are_refused(renamed: None) -> None:
    with pytest.raises(WeightsError, match=r"has lr and also optim.lr, its newer name"):
        migrate({"lr": 1, "optim": {"lr": 2}}, "0.8.0")


def run_checkpoint(path: Path, version: str) -> Path:
    config = {"model": {"_target_": "timm.create_model", "dim": 5}}
    torch.save({"iwin": {"version": version, "config": config}, "state_dict": {"model.w": torch.ones(1)}}, path)
    return path


def test_reading_a_checkpoint_migrates_its_configuration(renamed: None, tmp_path: Path) -> None:
    config = read_run_checkpoint(run_checkpoint(tmp_path / "x.ckpt", "0.2.0")).run_config
    assert config == {"model": {"_target_": "timm.create_model", "size": {"embed_dim": 5}}}
    with pytest.raises(WeightsError, match=r"x.ckpt cannot be read as weights: it was written by iwin 7.0"):
        read_run_checkpoint(run_checkpoint(tmp_path / "x.ckpt", "7.0"))


def test_weights_are_held_against_the_sha256_beside_them(tmp_path: Path) -> None:
    path = run_checkpoint(tmp_path / "x.ckpt", "0.1.0")
    digest_file(path).write_text("0" * 64 + "  x.ckpt\n")
    with pytest.raises(WeightsError, match=r"its sha256 is not the one in x.ckpt.sha256"):
        read_weights(path)
    digest_file(path).unlink()
    assert read_weights(path).tensors.keys() == {"w"}
