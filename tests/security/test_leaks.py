"""Secrets stay out of what a run prints and leaves."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest

from iwin.secrets import redact

SECRET = "hunter2hunter2"


class Tracker(lightning.Callback):
    """Stands for a user's own callback that takes a secret."""

    def __init__(self, api_key: str, url: str, fails: bool = False) -> None:
        self.api_key, self.fails = api_key, fails

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert self.api_key == SECRET, "what a run works with is the secret itself"
        if self.fails:
            raise RuntimeError(f"the server did not take {self.api_key}")


def holding(folder: Path, secret: str) -> list[str]:
    """The files below `folder` that hold `secret`."""
    return [str(file) for file in folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "wandb"])
def test_a_secret_in_the_configuration_stays_out_of_what_a_run_leaves(
    train, program, allow, capsys, monkeypatch, logger: str
) -> None:
    if logger != "csv":
        pytest.importorskip(logger)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    allow("- test_leaks.\n")
    tracker = (
        f"+callbacks.tracker={{_target_: test_leaks.Tracker, api_key: {SECRET}, url: 'https://me:{SECRET}@tracker/x'}}"
    )
    folder = train(tracker, f"logger={logger}")
    assert "***" in (folder / "config.yaml").read_text()
    assert "https://***@tracker/x" in (folder / "provenance.json").read_text()
    printed = train.printed + program("eval", f"checkpoint={folder}") + program("train", "--cfg", "job", tracker)
    assert SECRET not in printed + capsys.readouterr().err
    assert holding(folder, SECRET) == []


def test_another_secret_is_the_same_run() -> None:
    from iwin.train.run_folder import folder_name

    first, second = (
        redact({"model": {"name": "m"}, "data": {"name": "d"}, "callbacks": {"x": {"api_key": key}}, "trainer": {}})
        for key in ("one", "two")
    )
    assert folder_name(first) == folder_name(second)


def test_a_crash_does_not_tell_a_secret(train, allow, capsys) -> None:
    allow("- test_leaks.\n")
    with pytest.raises(SystemExit):
        train(f"+callbacks.tracker={{_target_: test_leaks.Tracker, api_key: {SECRET}, url: x, fails: true}}")
    told = capsys.readouterr()
    assert "the server did not take ***" in told.err
    assert SECRET not in told.out + told.err
