"""Settings that every test shares: the oracles importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import iwin  # noqa: F401  (first of all: before torch is loaded, it says how threads wait)

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def reference() -> Path:
    """The folder of values that the published implementations computed."""
    return Path(__file__).parent / "reference"
