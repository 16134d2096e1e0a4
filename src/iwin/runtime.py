"""What a run is: its seeds as a function of position, its resolved configuration, its provenance."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iwin.secrets import redact

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "webdataset",
    "numpy",
    "pillow",
)


def position_seed(seed: int, stream: str, *position: int) -> int:
    """A 63-bit seed for the draws of `stream` at `position`: the same on any machine and in any order.

    `stream` names what is drawn ("augment", "order", "update"), so that two uses at one position
    are independent.
    """
    text = f"{seed}/{stream}/" + "/".join(str(int(p)) for p in position)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_at(seed: int, stream: str, *position: int) -> None:
    """Set Python's, NumPy's and torch's generators (CPU, and CUDA once in use) to the draws at `position`.

    What is drawn afterwards depends on the position alone, never on what was drawn before; so a run
    that is interrupted and one that is not draw the same, with nothing to save.
    """
    value = position_seed(seed, stream, *position)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)  # noqa: NPY002  (what timm draws from)
    # Not torch.manual_seed: where CUDA is not in use yet, as in the workers, that puts a note off for later at
    # the cost of a stack trace, ten times what all the rest here costs.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)


def config_hash(config: dict[str, Any], length: int = 8) -> str:
    """A short hash of a resolved configuration (plain dicts and lists), independent of key order."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def code_version() -> dict[str, Any]:
    """Commit of the checkout, whether its tracked files were changed, and a hash of how; None where there is no git."""
    here = Path(__file__).resolve().parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    changes = git("diff", "HEAD") if status else None
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "changes": None if changes is None else hashlib.sha256(changes.encode()).hexdigest()[:16],
    }


def provenance(seed: int, data: dict[str, Any]) -> dict[str, Any]:
    """What is needed to tell a year later what a run was: code, versions, seed, data, command line; no secrets."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "code": code_version(),
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "platform": platform.platform(),
            "cuda": torch.version.cuda,
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "seed": seed,
        "data": redact(data),
        "command": redact([sys.executable, *sys.argv]),
    }
