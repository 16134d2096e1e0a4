"""Where the configuration files are, and single parts of a model read from them by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from iwin.errors import ConfigError, near_names

HYDRA_KEYS = {"_target_", "_convert_", "_recursive_", "_partial_"}
TOP_KEYS = {
    *("mixer", "position", "downsample", "model", "data", "augment", "optimizer", "schedule", "trainer"),
    *("callbacks", "logger", "paths", "init", "teacher", "task", "seed", "checkpoint"),
    *("duration", "validate_every", "log_every", "global_batch", "paper", "retry_failed"),
}


def conf_dir() -> Path:
    """The folder of configuration files: the checkout's, or the copy inside an installed wheel.

    FileNotFoundError where there is neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no conf/train.yaml beside {package} or in its checkout: install from the repository")


def groups() -> list[str]:
    """The configuration groups."""
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def options(group: str) -> list[str]:
    """The names that a configuration group offers."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml") if not path.stem.startswith("_"))


def read_part(group: str, name: str) -> dict[str, Any]:
    """conf/<group>/<name>.yaml as plain data. ConfigError with the near names where there is none."""
    if name not in options(group):
        raise ConfigError(f"there is no {group} {name!r}; {near_names(name, options(group))}")
    part = OmegaConf.to_container(OmegaConf.load(conf_dir() / group / f"{name}.yaml"), resolve=True)
    assert isinstance(part, dict)
    return {str(key): value for key, value in part.items()}


def check_keys(config: DictConfig) -> None:
    """ConfigError, with the near names, for keys at the top that nothing reads, and for keys of a `_target_`
    that its signature does not have. So a key appended with `+` is no way around."""
    for key in config:
        if str(key) not in TOP_KEYS:
            raise ConfigError(f"there is no key {key!r}; {near_names(str(key), TOP_KEYS)}")
    _check_targets(OmegaConf.to_container(config, resolve=False), "")


def _check_targets(node: Any, place: str) -> None:
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for key in node:
            if key not in HYDRA_KEYS and key not in parameters and not open_ended:
                raise ConfigError(f"there is no key {place}{key}; {near_names(key, parameters)}")
    for key, value in node.items():
        _check_targets(value, f"{place}{key}.")
