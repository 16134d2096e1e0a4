"""Loggers by configuration. Each takes the run folder, whose name is the run's name."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from iwin.errors import ConfigError
from iwin.train.metrics_csv import MetricsCSV


def _missing(package: str) -> ConfigError:
    return ConfigError(
        f"logger={package} needs the package {package}: pip install 'iwin[{package}]' -c constraints.txt"
    )


def csv(folder: Path) -> Logger:
    """metrics.csv in the run folder."""
    return MetricsCSV(folder)


def tensorboard(folder: Path) -> Logger:
    """TensorBoard files in <run folder>/tensorboard. ConfigError without the package."""
    if importlib.util.find_spec("tensorboard") is None:  # Lightning would say so only after the model is built
        raise _missing("tensorboard")
    return TensorBoardLogger(folder, name=None, version="tensorboard")


def wandb(
    folder: Path,
    project: str = "iwin",
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
) -> Logger:
    """Weights & Biases, with files in <run folder>/wandb; offline unless the user is logged in.

    The id is the folder's name, so that a resumed run goes on in the same place. ConfigError without
    the package.
    """
    if importlib.util.find_spec("wandb") is None:
        raise _missing("wandb")
    from lightning.pytorch.loggers import WandbLogger

    logged_in = "WANDB_API_KEY" in os.environ or "api.wandb.ai" in _netrc()
    return WandbLogger(
        name=folder.name,
        id=folder.name,
        save_dir=folder,
        mode="online" if logged_in else "offline",
        project=project,
        entity=entity,
        group=group,
        tags=tags or [],
    )


def _netrc() -> str:
    """Where `wandb login` leaves its key; empty where nobody logged in."""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return file.read_text() if file.is_file() else ""
