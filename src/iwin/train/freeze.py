"""Parameters that are not trained, named by patterns."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from iwin.errors import ConfigError, near_names


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Take gradients from every parameter whose name a pattern (fnmatch) matches; returns their names.

    A `*` matches dots as well: `layers.0.*` is the whole first stage. The optimizer gives such parameters no group, so
    neither decay nor momentum moves them. Running statistics of batch norms are no parameters, and go on moving.

    ConfigError for a pattern that matches nothing, with the near names, and where nothing is left to train.
    """
    if isinstance(patterns, str):
        raise ConfigError(f"task.freeze must be a list of patterns, got the text {patterns!r}")
    parameters = dict(model.named_parameters())
    frozen = []
    for pattern in patterns:
        found = [name for name in parameters if fnmatchcase(name, str(pattern))]
        if not found:
            hint = near_names(str(pattern), [*parameters, *_modules(parameters)])
            raise ConfigError(f"task.freeze: {pattern!r} matches no parameter of the model; {hint}")
        frozen += [name for name in found if name not in frozen]
    if parameters and len(frozen) == len(parameters):
        raise ConfigError(f"task.freeze={[*patterns]} leaves no parameter to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    return frozen


def _modules(names: Sequence[str] | dict[str, nn.Parameter]) -> set[str]:
    """The patterns for whole modules, which a mistyped one is likely to mean."""
    parts = [name.split(".") for name in names]
    return {".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part))}
