"""Settings that every test shares: the oracles importable, the programs callable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import iwin  # noqa: F401  (first of all: before torch is loaded, it says how threads wait)
from iwin.app import main

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def reference() -> Path:
    """The folder of values that the published implementations computed."""
    return Path(__file__).parent / "reference"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Run train or eval in this process; returns what it printed."""

    def call(name: str, *args: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *args])
        main(name)
        return capsys.readouterr().out

    return call
