"""What a configuration may have made or called: the `_target_`s under a list of prefixes, and nothing else.

A configuration may come with a checkpoint or a recipe from elsewhere, and Hydra calls whatever it names. So every
name is checked, in the whole composed configuration, before the first is imported. The list grows by a file of
the user's own, conf/local/allowed_targets.yaml, which neither a command line nor a checkpoint can name or change:

    - my_package.            # whatever my_package defines
    - other.module.Function  # this alone
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from iwin.conf import conf_dir
from iwin.errors import ConfigError

# A prefix that ends in a dot allows what is below it; another one that name alone.
PREFIXES = (
    *("iwin.create_model", "iwin.data.", "iwin.models.", "iwin.train."),
    *("lightning.Trainer", "lightning.pytorch.callbacks.", "lightning.pytorch.profilers."),
    "timm.create_model",
)
# What Hydra makes before a run begins: its launchers and sweepers, and handlers of logging.
HYDRA_PREFIXES = ("hydra._internal.core_plugins.", "hydra.experimental.callbacks.", "hydra_plugins.")
LOGGING_PREFIXES = ("logging.", "colorlog.")
OWN_FILE = "local/allowed_targets.yaml"


def own_file() -> Path:
    """The file in which a user allows more. It need not be there."""
    return conf_dir() / OWN_FILE


def own_prefixes() -> tuple[str, ...]:
    """The prefixes that the user allows besides. ConfigError where the file is not a list of dotted names."""
    file = own_file()
    if not file.is_file():
        return ()
    try:
        prefixes = OmegaConf.to_container(OmegaConf.create(file.read_text()), resolve=False)
    except Exception as error:  # YAML's errors and OmegaConf's have nothing else in common
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not prefixes:
        return ()
    for prefix in prefixes if isinstance(prefixes, list) else [prefixes]:
        if not isinstance(prefix, str) or not all(part.isidentifier() for part in prefix.removesuffix(".").split(".")):
            raise ConfigError(
                f"{file} must be a list of prefixes, as '- my_package.' or '- my_package.module.Class', got {prefix!r}"
            )
    if not isinstance(prefixes, list):
        raise ConfigError(f"{file} must be a list of prefixes, one a line: - {prefixes}")
    return tuple(str(prefix) for prefix in prefixes)


def check_targets(config: DictConfig | dict[str, Any]) -> None:
    """ConfigError for the first `_target_` anywhere in `config` that is not allowed; nothing it names is imported.

    One below an allowed prefix is imported, and must be defined in the same package: iwin.train.build.os.system
    begins well and is not ours.
    """
    allowed = (*PREFIXES, *own_prefixes())
    for place, target in _named(_resolved(config), ("_target_",)):
        _check(place, target, allowed)


def check_hydra(config: DictConfig) -> None:
    """The same for Hydra's own part of a configuration: launcher, sweeper, callbacks, and the classes of logging."""
    node, own = OmegaConf.to_container(config, resolve=False), own_prefixes()
    assert isinstance(node, dict)
    for place, value in _strings(node, ""):
        # It is too early to resolve this part as a whole. What points to another place in it is looked at there.
        if value.startswith("${") and not value.startswith(("${hydra.", "${hydra:")):
            found = OmegaConf.select(config, place)
            if isinstance(found, DictConfig | ListConfig):
                raise ConfigError(f"hydra.{place}={value} takes a whole node from elsewhere: write it there in full")
    for place, target in _named(node, ("_target_",)):
        _check(f"hydra.{place}", target, (*HYDRA_PREFIXES, *own))
    for name in ("job_logging", "hydra_logging"):
        for place, target in _named(node.get(name), ("class", "()")):
            _check(f"hydra.{name}.{place}", target, (*LOGGING_PREFIXES, *own))


def check_saved(config: dict[str, Any]) -> None:
    """ConfigError where the configuration that a file carries would look something up here, or names what may not be.

    A saved configuration is resolved: an interpolation in it was put there, to read the environment of whoever
    opens the file.
    """
    for place, value in _strings(config, ""):
        if "${" in value:
            raise ConfigError(
                f"the configuration in the checkpoint has an interpolation in {place}, which none saved here has"
            )
    check_targets(config)


@contextmanager
def checked_composition() -> Iterator[None]:
    """Meanwhile Hydra checks its own part of whatever it composes. It acts on that before any code of ours runs."""
    compose = ConfigLoaderImpl.load_configuration

    def checked(self: ConfigLoaderImpl, *args: Any, **keys: Any) -> DictConfig:
        config = compose(self, *args, **keys)
        check_hydra(config.hydra)
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]


def _resolved(config: DictConfig | dict[str, Any]) -> Any:
    """As plain dicts and lists. An interpolation may hold any node, so it is resolved before it is looked at."""
    return OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config


def _named(node: Any, keys: tuple[str, ...], place: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each of `keys`, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys and value is not None:
                yield f"{place}{key}", value
            else:
                yield from _named(value, keys, f"{place}{key}.")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _named(value, keys, f"{place}{index}.")


def _strings(node: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield place, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _strings(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _strings(value, f"{place}.{index}")


def _check(place: str, target: Any, allowed: tuple[str, ...]) -> None:
    listed = f"Allowed are {', '.join(allowed)}; you may add to them in {own_file()}."
    if not isinstance(target, str) or not any(
        target.startswith(prefix) if prefix.endswith(".") else target == prefix for prefix in allowed
    ):
        raise ConfigError(f"{place}={target} may not be named by a configuration. {listed}")
    try:
        found = get_object(target)
    except Exception as error:  # whatever importing it raises
        raise ConfigError(f"{place}={target} cannot be found: {error}") from error
    package = (getattr(found, "__module__", None) or "").partition(".")[0]
    if package != target.partition(".")[0]:
        where = f"defined in {package}" if package else "no class or function"
        raise ConfigError(f"{place}={target} may not be named by a configuration: it is {where}. {listed}")
