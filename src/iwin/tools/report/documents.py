"""JSON and YAML that may be damaged: every value is looked at before it is believed.

A value that is absent or null is None. One of another kind than asked for is a DataError that names the file and
the key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # what OmegaConf lets through

from iwin.errors import DataError


@dataclass(frozen=True)
class Document:
    """A mapping that was read from `path`."""

    path: Path
    content: dict[str, Any]

    def value(self, *keys: str) -> Any:
        """What stands at the keys, one inside the other. DataError where something in between has no keys."""
        found: Any = self.content
        for depth, key in enumerate(keys):
            if not isinstance(found, dict):
                raise self._wrong(keys[:depth], "a mapping", found)
            found = found.get(key)
            if found is None:
                return None
        return found

    def number(self, *keys: str) -> float | None:
        """A number. What is not finite is no measurement: None, as where there is nothing."""
        found = self.value(*keys)
        if found is None:
            return None
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self._wrong(keys, "a number", found)
        return found if math.isfinite(found) else None

    def whole(self, *keys: str) -> int | None:
        """A whole number."""
        found = self.value(*keys)
        if found is not None and (not isinstance(found, int) or isinstance(found, bool)):
            raise self._wrong(keys, "a whole number", found)
        return found

    def text(self, *keys: str) -> str | None:
        """A string."""
        found = self.value(*keys)
        if found is not None and not isinstance(found, str):
            raise self._wrong(keys, "a string", found)
        return found

    def mapping(self, *keys: str) -> dict[str, Any]:
        """A mapping; empty where there is none."""
        found = self.value(*keys)
        if found is not None and not isinstance(found, dict):
            raise self._wrong(keys, "a mapping", found)
        return found or {}

    def texts(self, *keys: str) -> list[str]:
        """A list of strings; empty where there is none."""
        found = self.value(*keys)
        if found is not None and not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
            raise self._wrong(keys, "a list of strings", found)
        return found or []

    def parts(self, *keys: str) -> list[Document]:
        """A list of mappings, each a document; empty where there is none."""
        found = self.value(*keys)
        if found is not None and not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
            raise self._wrong(keys, "a list of mappings", found)
        return [Document(self.path, one) for one in found or []]

    def _wrong(self, keys: tuple[str, ...], wanted: str, found: object) -> DataError:
        where = ".".join(keys) or "the whole"
        return DataError(f"{self.path} is damaged: {where} must be {wanted}, and is {str(found)[:80]!r}")


def read_json(path: Path) -> Document:
    """A JSON file that holds a mapping. DataError where it cannot be read or is none."""
    return _read(path, "JSON", json.loads)


def read_yaml(path: Path) -> Document:
    """A YAML file that holds a mapping, as Hydra reads it. DataError where it cannot be read or is none."""
    return _read(path, "YAML", lambda text: OmegaConf.to_container(OmegaConf.create(text)))


def _read(path: Path, kind: str, parse: Callable[[str], Any]) -> Document:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        raise DataError(
            f"{path} is no {kind}: {error}. If a full disk or a kill damaged it, remove the run's folder or mend it."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it must hold a mapping, and holds {str(content)[:80]!r}")
    return Document(path, content)
