"""The recipes of images are clean, alike, and copy only what is in the repository and let through by .dockerignore."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from image_recipes import APPTAINER, DOCKERFILES, ROOT, ignored, read_apptainer, read_dockerfile


def hadolint() -> str | None:
    """The linter beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("hadolint")
    return str(beside) if beside.is_file() else shutil.which("hadolint")


def instructions(dockerfile: Path) -> list[list[str]]:
    return [line.split() for line in read_dockerfile(dockerfile)]


def copied(dockerfile: Path) -> list[str]:
    return [source for word, *rest in instructions(dockerfile) if word == "COPY" for source in rest[:-1]]


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
        ("conf/local/slurm.yaml", True),
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


def test_apptainer_s_image_has_nothing_of_one_site(tmp_path: Path) -> None:
    for name in ("example.yaml", "example_slurm.yaml", "default.yaml", "slurm.yaml", "allowed_targets.yaml"):
        (tmp_path / name).touch()
    (line,) = (line for line in read_apptainer(APPTAINER).post if "conf/local" in line)
    subprocess.run(["sh", "-e", "-c", line.replace("/app/conf/local", str(tmp_path))], check=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["example.yaml", "example_slurm.yaml"]


def test_apptainer_s_image_has_what_docker_s_has() -> None:
    recipe, docker = read_apptainer(APPTAINER), instructions(ROOT / "docker" / "Dockerfile")
    assert recipe.base == next(words[1] for words in docker if words[0] == "FROM")
    assert sorted(recipe.files) == sorted(copied(ROOT / "docker" / "Dockerfile"))
    assert {f"/app/{source}" for source in recipe.files} == set(recipe.files.values())
    told = dict(word.split("=", 1) for words in docker if words[0] == "ENV" for word in words[1:])
    assert recipe.environment == told
    ran = " ".join(" ".join(words[1:]) for words in docker if words[0] == "RUN")
    for command in (r"apt-get install [^&\n]*", r"pip install [^&\n]*"):
        mine, theirs = re.search(command, "\n".join(recipe.post)), re.search(command, ran)
        assert mine is not None
        assert theirs is not None
        assert mine[0].split() == theirs[0].split()
