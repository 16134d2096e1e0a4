"""train.py, and what it takes of memory: python measured_training.py OVERRIDES prints, as its last line, the bytes.

Resident memory at its highest, less what was resident when the model was about to be made.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from iwin.app import main
from iwin.train import fit
from iwin.train.callbacks.throughput import peak_memory

before: list[int] = []
build_model = fit.build_model


def resident() -> int:
    """Of this process, now."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def noted(cfg: Any) -> Any:
    before.append(resident())
    return build_model(cfg)


if __name__ == "__main__":
    fit.build_model = noted
    main("train")
    print(peak_memory(torch.device("cpu"))[0] - before[0])
