"""Configurations that checkpoints carry, from the keys of the version that wrote them to those of this one."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import iwin
from iwin.errors import WeightsError

# Keys that a version renamed, dotted, old -> new: for configurations that earlier versions wrote.
RENAMED: dict[str, dict[str, str]] = {}


def migrate(config: Mapping[str, Any], version: Any) -> dict[str, Any]:
    """`config`, which iwin `version` wrote, with the keys of this version; a copy.

    A key that no version had stays, for check_keys to name. WeightsError where `version` is none or newer than
    this one, and where a renamed key stands there under both of its names.
    """
    written = check_version(version)
    migrated = copy.deepcopy(dict(config))
    for since in sorted(RENAMED, key=_numbers):
        if written < _numbers(since):
            for old, new in RENAMED[since].items():
                _rename(migrated, old.split("."), new.split("."))
    return migrated


def check_version(version: Any) -> tuple[int, ...]:
    """The numbers of the version that wrote a checkpoint. WeightsError where it is none, or newer than this one."""
    written = _numbers(version)
    if written > _numbers(iwin.__version__):
        raise WeightsError(
            f"it was written by iwin {version}, and this is {iwin.__version__}, which cannot know what has changed "
            "since: update iwin"
        )
    return written


def _numbers(version: Any) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version) if isinstance(version, str) else None
    if match is None:
        raise WeightsError(f"the version of iwin that wrote it is {version!r}, which is none")
    return tuple(map(int, match[0].split(".")))


def _rename(config: dict[str, Any], old: list[str], new: list[str]) -> None:
    source = _parent(config, old, make=False)
    if source is None or old[-1] not in source:
        return
    target = _parent(config, new, make=True)
    if target is None or new[-1] in target:
        raise WeightsError(f"its configuration has {'.'.join(old)} and also {'.'.join(new)}, its newer name")
    target[new[-1]] = source.pop(old[-1])


def _parent(config: dict[str, Any], key: list[str], *, make: bool) -> dict[str, Any] | None:
    """The dict that holds the last part of `key`; None where there is none and none can be made."""
    node: Any = config
    for part in key[:-1]:
        node = node.setdefault(part, {}) if make else node.get(part)
        if not isinstance(node, dict):
            return None
    return node
