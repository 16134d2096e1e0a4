"""What the loggers write under which name. W&B without a network: its offline mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from iwin.errors import ConfigError
from iwin.train.loggers import check_loggers, wandb


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder that has its configuration."""
    place = tmp_path / "iwin_micro-digits-1f"
    place.mkdir()
    (place / "config.yaml").write_text("seed: 3\nmodel: {name: iwin_micro}\n")
    return place


def test_wandb_begins_with_the_configuration_and_counts_as_the_run_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = wandb(folder, mode="offline")
    run = logger.experiment
    assert run.id == folder.name
    assert dict(run.config) == {"seed": 3, "model": {"name": "iwin_micro"}}
    logger.log_metrics({"train/loss": 1.0}, step=40)  # the first of a part that goes on there
    logger.log_metrics({"train/loss": 0.5}, step=41)
    assert run.step == 41
    logger.finalize("success")
    (part,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert part.name == f"run-{folder.name}.wandb"


@pytest.mark.parametrize(
    ("key", "netrc", "mode"), [("", "", "offline"), ("k" * 40, "", "online"), ("", "is", "online")]
)
def test_wandb_is_online_where_one_is_logged_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, netrc: str, mode: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password p\n" if netrc else "")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("iwin.train.loggers.wandb_host", lambda: "wandb.example.org")
    assert wandb(folder)._wandb_init["mode"] == mode
    assert wandb(folder, mode="offline")._wandb_init["mode"] == "offline"


def test_what_a_logger_does_not_have_is_refused_before_there_is_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"logger\.wandb\.mode=ofline \(or WANDB_MODE\): did you mean offline"):
        check_loggers({"wandb": {"mode": "ofline"}})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for package in ("wandb", "tensorboard"):
        with pytest.raises(ConfigError, match=rf"needs the package {package}: pip install 'iwin\[{package}\]'"):
            check_loggers({"csv": {"_target_": "iwin.train.loggers.csv"}, package: {"_target_": "any"}})
    check_loggers({"csv": {"_target_": "iwin.train.loggers.csv"}, "wandb": None})
