"""Who may import whom: read from the code, so that the rooms stay apart."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "iwin"
EVERYONE = {"errors", "batch", "conf", "durations", "imports"}  # conf: where the configuration files are
SAFETY = {"secrets", "allowed"}  # what is hidden, and what a configuration may name
ALLOWED = {
    "errors": set(),
    "batch": set(),
    "conf": {"errors"},
    "imports": set(),
    "durations": {"errors"},
    "exit_codes": set(),
    "secrets": set(),
    "allowed": {"errors", "conf"},
    "runtime": {"errors", "secrets"},
    "models": EVERYONE,
    "data": EVERYONE | {"runtime"},
    "weights": EVERYONE | {"models", ""},  # "": iwin itself, for its version
    "train": EVERYONE | SAFETY | {"runtime", "exit_codes", "models", "weights", ""},  # "": iwin itself, for its version
    "app": None,
    "tools": None,
    "__init__": None,
}


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        for name in names:
            if name == "iwin" or name.startswith("iwin."):
                found.add([*name.split("."), ""][1])
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(PACKAGE)) for f in FILES])
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in ALLOWED, f"{room} is a new room: say here whom it may import"
    allowed = ALLOWED[room]
    if allowed is not None:
        assert rooms_imported(path) <= allowed | {room}


def test_no_room_imports_the_tools() -> None:
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] != "tools":
            assert "tools" not in rooms_imported(path), path
