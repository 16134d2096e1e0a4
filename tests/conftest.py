"""Settings that every test shares: two threads at most, no display, the oracles importable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(2)


@pytest.fixture
def reference() -> Path:
    """The folder of values that the published implementations computed."""
    return Path(__file__).parent / "reference"
