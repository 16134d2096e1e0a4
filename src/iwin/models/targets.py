"""Parts named by a plain configuration: {"_target_": "iwin.models.mixers.window.WindowAttention", ...}.

A model's configuration is plain data, so that it can be saved in JSON beside the weights and read back;
this is where a name in it becomes a class. Only classes of `iwin.models` are ever imported.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from iwin.errors import ConfigError, near_names

ALLOWED = "iwin.models."


def part_class(config: Mapping[str, Any]) -> Any:
    """The class that `config` names. ConfigError outside of `iwin.models`, or where there is none."""
    target = config.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"a part needs a _target_, the dotted name of its class; got {dict(config)}")
    if not target.startswith(ALLOWED):
        raise ConfigError(f"_target_ {target!r} is not of {ALLOWED}*: a part of a model must be a class in there")
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"_target_ {target!r}: there is no module {error.name}") from error
    cls = getattr(module, name, None)
    if not isinstance(cls, type):
        raise ConfigError(f"_target_ {target!r}: {module_name} has no class {name}; {near_names(name, vars(module))}")
    return cls


def build_part(config: Mapping[str, Any], *args: Any) -> Any:
    """The object that `config` names, made from `args` and the other keys of it.

    ConfigError as in `part_class`, and for keys that the class does not have.
    """
    cls = part_class(config)
    keys = {key: value for key, value in config.items() if key != "_target_"}
    known = [p.name for p in list(inspect.signature(cls).parameters.values())[len(args) :]]
    for key in keys:
        if key not in known:
            hint = near_names(key, known) if known else "it has none"
            raise ConfigError(f"{config['_target_']} has no key {key!r}; {hint}")
    return cls(*args, **keys)


def plain(value: Any) -> Any:
    """`value` with every mapping a dict and every sequence a list, as JSON would give it back."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
