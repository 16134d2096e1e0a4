"""The configuration that a Slurm job was submitted with, which its run has at every start.

A job may wait for days, and be requeued for weeks, in which conf/ changes. So what was composed at submission is
written beside the logs, and takes the place of what Hydra would compose in the job. Interpolations stay as they are:
the environment that they ask for is the job's, which its batch script may set.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from iwin.errors import ConfigError

CONFIG_VARIABLE = "IWIN_SUBMITTED_CONFIG"  # the file, told to the processes of a job
OWN_ALONE = 0o600  # what was given on the command line may hold secrets


def keep(composed: DictConfig, file: Path) -> dict[str, str]:
    """Write a configuration as Hydra composed it, its own part included; returns what tells a job of the file.

    OSError where it cannot be written, FileExistsError where it is there already.
    """
    config = copy.deepcopy(composed)
    with read_write(config.hydra):
        config.hydra.mode = RunMode.RUN  # the job is one run, however it was submitted
    text = OmegaConf.to_yaml(config, resolve=False)
    if _of_run(_read(text)) != _of_run(config):
        raise RuntimeError("this configuration is not read as it was written")
    with open(file, "x", opener=lambda path, flags: os.open(path, flags, OWN_ALONE)) as written:
        written.write(text)
    return {CONFIG_VARIABLE: str(file)}


@contextmanager
def submitted_composition(environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Meanwhile Hydra composes, in a job that was told of a file, what is in that. Nothing changes elsewhere.

    ConfigError, in composing, where the file cannot be used.
    """
    told = environ.get(CONFIG_VARIABLE)
    if not told:
        yield
        return
    compose = ConfigLoaderImpl.load_configuration

    def submitted(self: ConfigLoaderImpl, *args: Any, **keys: Any) -> DictConfig:
        return read(Path(told))

    ConfigLoaderImpl.load_configuration = submitted  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]


def read(file: Path) -> DictConfig:
    """What `keep` has written, as Hydra would compose it: closed to new keys. ConfigError where it cannot be read."""
    try:
        return _read(file.read_text())
    except Exception as error:  # the system's errors, YAML's and OmegaConf's have nothing else in common
        raise ConfigError(
            f"{file}, the configuration that this job was submitted with, cannot be read ({error}): submit the run "
            "anew; it goes on where it stopped"
        ) from error


def _read(text: str) -> DictConfig:
    # Of YAML OmegaConf takes plain values alone. Hydra wants its own part to be of its own type, which it has added to.
    own = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(own, False)
    config = OmegaConf.merge({"hydra": own}, OmegaConf.create(text))
    assert isinstance(config, DictConfig)
    OmegaConf.set_struct(config, True)
    return config


def _of_run(config: DictConfig) -> dict[str, Any]:
    """Without Hydra's part, as plain values."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}
