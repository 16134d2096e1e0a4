"""The folder that a report is written to: a former report in it is replaced, and nothing else ever.

What was written stands in manifest.json with the hash of each file. A folder holds a former report, and nothing but,
where each file in it is one of these and as it was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from iwin.errors import ConfigError
from iwin.tools.report.documents import read_json

MANIFEST = "manifest.json"
WRITTEN_BY = "iwin report"
MOST_NAMED = 5


def check_folder(folder: Path) -> None:
    """ConfigError where there is something that is not a report's; DataError where its manifest is damaged."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give a folder with --out")
    hashes = _hashes(folder)
    others = sorted(
        child.name
        for child in folder.iterdir()
        if child.name != MANIFEST or not hashes
        if not child.is_file() or hashes.get(child.name) != _hash(child.read_bytes())
    )
    if others:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        raise ConfigError(
            f"{folder} holds what no report wrote, or what was changed since: {', '.join(others[:MOST_NAMED])}{more}. "
            "Nothing was written; give another folder with --out, or move these away."
        )


def put_report(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files and the manifest, in place of a former report.

    All is written beside the folder first, so that a full disk leaves the former report. Raises as `check_folder`,
    and ConfigError where the folder cannot be written.
    """
    check_folder(folder)
    hashes = {name: _hash(content) for name, content in files.items()}
    manifest = json.dumps({"written_by": WRITTEN_BY, "sha256": hashes}, indent=1) + "\n"
    folder = folder.absolute()
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        beside.mkdir(parents=True)
        try:
            for name, content in {**files, MANIFEST: manifest.encode()}.items():
                (beside / name).write_bytes(content)
            if folder.exists():
                for name in sorted(child.name for child in folder.iterdir() if child.name != MANIFEST):
                    (folder / name).unlink()
                (folder / MANIFEST).unlink(missing_ok=True)  # last: until then it says whose the others are
            beside.rename(folder)  # onto an empty folder, or none
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"cannot write the report to {folder}: {error.strerror}. Give a folder with --out") from error


def _hashes(folder: Path) -> dict[str, object]:
    """What the manifest of a former report says; empty where there is none."""
    if not (folder / MANIFEST).is_file():
        return {}
    manifest = read_json(folder / MANIFEST)
    return manifest.mapping("sha256") if manifest.value("written_by") == WRITTEN_BY else {}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
