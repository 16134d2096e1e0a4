"""Loggers by configuration. Each takes the run folder, whose name is the run's name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from iwin.errors import ConfigError, near_names
from iwin.train.metrics_csv import MetricsCSV

MODES = ("auto", "online", "offline", "disabled")


PACKAGES = ("tensorboard", "wandb")  # of the loggers of these names


def check_loggers(loggers: Mapping[str, Any]) -> None:
    """The configuration's `logger`. ConfigError for one whose package is missing, and for what W&B does not have."""
    for package in PACKAGES:
        if loggers.get(package) and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"logger={package} needs the package {package}: pip install 'iwin[{package}]' -c constraints.txt"
            )
    mode = (loggers.get("wandb") or {}).get("mode", "auto")
    if mode not in MODES:
        raise ConfigError(f"logger.wandb.mode={mode} (or WANDB_MODE): {near_names(str(mode), MODES)}")


def csv(folder: Path) -> Logger:
    """metrics.csv in the run folder."""
    return MetricsCSV(folder)


def tensorboard(folder: Path) -> Logger:
    """TensorBoard files in <run folder>/tensorboard."""
    return TensorBoardLogger(folder, name=None, version="tensorboard")


class _Wandb(WandbLogger):
    """Begins with the run's configuration, and ends with training: Lightning leaves it open, and the next run in this
    process would go on in it.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, begun where it is first asked for. The configuration is config.yaml's: no secrets are in it."""
        begins = self._experiment is None
        experiment: Any = super().experiment
        if begins:
            config = OmegaConf.to_container(OmegaConf.load(Path(str(self.save_dir)) / "config.yaml"))
            experiment.config.update(config, allow_val_change=True)
        return experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Under the run's own count of updates. W&B's begins at 0 with each offline part of a run that was stopped."""
        self.experiment.log({**metrics, "trainer/global_step": step}, step=step)

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self.experiment.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None  # whoever logs again goes on under the same id


def wandb(
    folder: Path,
    mode: str = "auto",
    project: str = "iwin",
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
) -> Logger:
    """Weights & Biases, with files in <run folder>/wandb, which has the run's config.yaml when training begins.

    The id is the folder's name, so that a resumed run goes on in the same place. mode: one of MODES; `auto` is
    online where the user is logged in, and else offline.

    Its own collecting is off: it would send the command line as typed, and what is not committed, with any secret
    in them. provenance.json in the run folder has command and code version.
    """
    import wandb as client

    if mode == "auto":
        mode = "online" if "WANDB_API_KEY" in os.environ or wandb_host() in _netrc() else "offline"
    return _Wandb(
        name=folder.name,
        id=folder.name,
        save_dir=folder,
        mode=mode,
        project=project,
        entity=entity,
        group=group,
        tags=tags or [],
        settings=client.Settings(x_disable_meta=True, disable_git=True),
    )


def wandb_host() -> str:
    """The server that wandb is set up for."""
    import wandb as client

    return str(urlsplit(client.setup().settings.base_url).hostname)


def _netrc() -> str:
    """Where `wandb login` leaves its key; empty where nobody logged in."""
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return file.read_text() if file.is_file() else ""
