"""The sha256 beside a checkpoint, by which a damaged one is told from a sound one.

`NAME.sha256` is what sha256sum writes and `sha256sum -c` reads: a line `HASH  NAME`. Neither torch nor safetensors
notices a flipped bit in a tensor, so the hash is of the whole file. While a file is being replaced, its sha256 holds
two lines, of the old and of the new content: at any moment, what stands there agrees with one of them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

SUFFIX = ".sha256"
_LINE = re.compile(r"([0-9a-f]{64})(?:\s|$)")


def digest_file(path: Path) -> Path:
    """Where the sha256 of `path` stands."""
    return path.with_name(path.name + SUFFIX)


def digest_text(path: Path, digests: Sequence[str]) -> str:
    """What is written there."""
    return "".join(f"{digest}  {path.name}\n" for digest in digests)


def recorded(path: Path) -> list[str]:
    """The hashes that stand beside `path`, any of which it may have; none where there is no such file."""
    try:
        text = digest_file(path).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return []
    return [match[1] for match in map(_LINE.match, text.splitlines()) if match]


def damage(path: Path) -> str | None:
    """Why `path` cannot be what was written, in words; None where its content has the hash that stands beside it."""
    while True:
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                read = os.fstat(file.fileno())
            expected = recorded(path)
            if found in expected:
                return None
            now = path.stat()
        except FileNotFoundError:
            return "it is not there any more"
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        if (now.st_dev, now.st_ino) == (read.st_dev, read.st_ino):
            break  # otherwise a running training has replaced it since, and its hash: look again
    beside = digest_file(path).name
    if not expected:
        return f"{beside} holds no hash" if digest_file(path).exists() else f"{beside}, its hash, is missing"
    return f"its content is not what was saved: its sha256 is not the one in {beside}"
