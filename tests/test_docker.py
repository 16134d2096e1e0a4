"""The Dockerfiles are clean, and copy only what is in the repository and let through by .dockerignore."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile*"))


def hadolint() -> str | None:
    """The linter beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint")


def instructions(dockerfile: Path) -> list[list[str]]:
    """The words of each instruction, without comments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip()]


def copied(dockerfile: Path) -> list[str]:
    return [source for word, *rest in instructions(dockerfile) if word == "COPY" for source in rest[:-1]]


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


def test_the_two_images_are_there() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile", "Dockerfile.cpu"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    linter = hadolint()
    if linter is None:
        pytest.skip("hadolint is not installed; it comes with the extra iwin[dev]")
    done = subprocess.run([linter, "--no-color", str(dockerfile)], capture_output=True, text=True, timeout=60)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_let_through(dockerfile: Path) -> None:
    sources = copied(dockerfile)
    assert {"pyproject.toml", "constraints.txt", "src", "conf", "train.py", "eval.py"} <= set(sources)
    rules = (ROOT / ".dockerignore").read_text()
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if ignored(source, rules)] == []


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_folders_of_data_and_runs_are_those_that_the_configuration_reads(dockerfile: Path) -> None:
    words = {word for words in instructions(dockerfile) if words[0] == "ENV" for word in words[1:]}
    set_here = {word.split("=")[0] for word in words if word.startswith("IWIN_")}
    read = set(re.findall(r"oc\.env:(IWIN_\w+)", (ROOT / "conf" / "paths" / "default.yaml").read_text()))
    assert set_here == read


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_program_does_not_run_as_root(dockerfile: Path) -> None:
    *_, user, entry = instructions(dockerfile)
    assert user == ["USER", "1000"]
    assert " ".join(entry) == 'ENTRYPOINT ["python", "train.py"]'


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("src/iwin/batch.py", False),
        ("conf/data/digits.yaml", False),
        ("conf/local/default.yaml", True),
        ("src/iwin/train/__pycache__/task.cpython-312.pyc", True),
        ("src/iwin.egg-info", True),
        ("runs/digits/last.ckpt", True),
        ("data/shard-000.tar", True),
        (".git/config", True),
        (".venv/bin/python", True),
    ],
)
def test_the_context_is_the_code_alone(path: str, out: bool) -> None:
    assert ignored(path, (ROOT / ".dockerignore").read_text()) is out
