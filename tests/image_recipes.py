"""The Dockerfiles, .dockerignore and the recipe for Apptainer, as far as the tests read them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))
APPTAINER = ROOT / "docker" / "iwin.def"


def read_dockerfile(file: Path) -> list[str]:
    """Its instructions, a line each, without comments."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


@dataclass(frozen=True)
class ApptainerRecipe:
    """files: where each goes. post, runscript: lines of shell, without comments."""

    base: str
    files: dict[str, str]
    post: list[str]
    environment: dict[str, str]
    runscript: list[str]


def read_apptainer(file: Path) -> ApptainerRecipe:
    """The sections of an Apptainer definition file."""
    head, *parts = re.split(r"^%(\w+)\n", file.read_text(), flags=re.MULTILINE)
    sections = {
        name: [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
    base = re.search(r"^From: (\S+)$", head, re.MULTILINE)
    assert base is not None
    return ApptainerRecipe(
        base[1],
        dict(line.split() for line in sections["files"]),  # type: ignore[misc]
        sections["post"],
        dict(line.removeprefix("export ").split("=", 1) for line in sections["environment"]),  # type: ignore[misc]
        sections["runscript"],
    )


def ignored(path: str, rules: str) -> bool:
    """Whether .dockerignore leaves `path` out: the last rule that names it, or a folder above it, decides."""
    out = False
    for rule in (line.strip() for line in rules.splitlines()):
        if not rule or rule.startswith("#"):
            continue
        parts = [re.escape(part).replace(r"\*", "[^/]*") for part in rule.removeprefix("!").split("/")]
        pattern = "/".join(parts).replace("[^/]*[^/]*/", "(.*/)?")
        if re.fullmatch(f"{pattern}(/.*)?", path):
            out = not rule.startswith("!")
    return out
