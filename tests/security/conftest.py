"""Short runs, refusals, and the user's own list of what a configuration may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from iwin import allowed

SHORT = ("duration=1ep", "trainer.limit_train_batches=2", "schedule.warmup=0st", "data.num_workers=0")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The folder that an attack would make."""
    return tmp_path / "executed"


@pytest.fixture
def train(program, tmp_path: Path):
    """A short run below tmp_path/runs; returns its folder."""

    def call(*args: str) -> Path:
        call.printed = program("train", f"paths.runs_dir={tmp_path}/runs", *SHORT, *args)
        (folder,) = (tmp_path / "runs").iterdir()
        return folder

    return call


@pytest.fixture
def refused(program, capsys, tmp_path: Path):
    """Run a program that must end with exit code 2 and one message; returns it."""

    def call(name: str, *args: str) -> str:
        with pytest.raises(SystemExit) as ended:
            program(name, f"paths.runs_dir={tmp_path}/runs", *args)
        message = capsys.readouterr().err
        assert ended.value.code == 2, message
        assert "Traceback" not in message
        return message

    return call


@pytest.fixture
def allow(monkeypatch, tmp_path: Path):
    """Write the user's own list of allowed targets."""

    def call(text: str) -> None:
        (tmp_path / "allowed_targets.yaml").write_text(text)
        monkeypatch.setattr(allowed, "own_file", lambda: tmp_path / "allowed_targets.yaml")

    return call
