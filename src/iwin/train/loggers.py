"""Loggers by configuration. Each takes the run folder, whose name is the run's name."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

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


class _Wandb(WandbLogger):
    """Ends its run with training. Lightning leaves it open, and the next one in this process would go on in it."""

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self.experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None  # whoever logs again goes on under the same id


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

    Its own collecting is off: it would send the command line as typed, and what is not committed, with any secret
    in them. provenance.json in the run folder has command and code version.
    """
    if importlib.util.find_spec("wandb") is None:
        raise _missing("wandb")
    import wandb as client

    logged_in = "WANDB_API_KEY" in os.environ or "api.wandb.ai" in _netrc()
    return _Wandb(
        name=folder.name,
        id=folder.name,
        save_dir=folder,
        mode="online" if logged_in else "offline",
        project=project,
        entity=entity,
        group=group,
        tags=tags or [],
        settings=client.Settings(x_disable_meta=True, disable_git=True),
    )


def _netrc() -> str:
    """Where `wandb login` leaves its key; empty where nobody logged in."""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return file.read_text() if file.is_file() else ""
