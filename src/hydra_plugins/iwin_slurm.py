"""Hydra's `hydra/launcher=slurm`: submits the cells of a command to Slurm, and returns.

hydra-submitit-launcher waits for its jobs, and runs them inside of submitit, whose signal handler requeues a job and
ends it in the middle of an update. Here a job becomes the process of train.py itself, and its batch script requeues it
(iwin.train.requeue). Hydra looks for launchers in this package, whenever one of its programs starts, and jobs begin
here: nothing heavy is imported at the top.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

try:
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher
except ImportError:  # of the extra `slurm`, which `python train.py` alone does not need

    class SlurmLauncher(Launcher):  # type: ignore[no-redef]
        """As much of it as it takes to say that it is not here: Hydra drops a class that has less."""

        def __init__(self, **params: Any) -> None:
            self.params = {
                key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
                for key, value in params.items()
            }

        def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
            self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class Become:
    """A job: its process becomes that of the command, which so has Slurm's signals for itself."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.command, self.environment = list(command), dict(environment)

    def __call__(self) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(self.command[0], self.command, {**os.environ, **self.environment})


class SlurmArray(SlurmLauncher):
    """The launcher. Its keys are those of conf/hydra/launcher/slurm.yaml."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """Submit the cells; nothing is returned for Hydra to wait for.

        ConfigError for a configuration, a launcher's key or a job that cannot be used. SystemExit for a sweep, with
        its exit code.
        """
        from iwin.app import cell_config, given_environment
        from iwin.train.submit import Submission

        submission = Submission(self.params, alone=len(job_overrides) == 1)
        usable = partial(cell_config, launcher=self.params)
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            submission.add(list(overrides), self._composed(number, overrides), usable)
        with given_environment():  # which jobs get
            submission.send(Become)
        return []

    def _composed(self, number: int, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a cell, Hydra's part included, which is also in HydraConfig from here on."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.id = number, str(number)
        HydraConfig.instance().set_config(config)
        return config
