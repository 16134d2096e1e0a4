"""The manifest of a data set of shards: its classes, which shards belong to each split, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iwin.data.whole_file import whole_file
from iwin.errors import DataError

MANIFEST = "manifest.json"
FORMAT = 1
# What is there instead as long as a data set is being written.
UNFINISHED = "unfinished.json"


def write_manifest(root: Path, classes: list[str], splits: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the manifest of `root`: the last file of a data set, so that one with a manifest is complete."""
    manifest = {"format": FORMAT, "classes": classes, "splits": splits, "about": about}
    with whole_file(root / MANIFEST) as file:
        file.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())


def read_manifest(root: Path) -> dict[str, Any] | None:
    """The manifest of the data set in `root`; None where another tool wrote the shards and left none.

    Raises:
        DataError: it cannot be read, or is of another format.
    """
    path = root / MANIFEST
    if not path.is_file():
        return None
    again = "Write the data set again, or remove the manifest."
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}). {again}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} is not a manifest of format {FORMAT}. {again}")
    return manifest
