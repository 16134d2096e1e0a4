"""Every command of the image recipes is run, without an engine: in a throwaway copy of this machine's root.

What stands in for the base image: this system, with this Python under the name of the image's, and Debian's names for
its packages. What pip would download is there already, and it checks that the constraints allow it. Nothing else in
the commands is changed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_recipes import APPTAINER, ROOT, ignored, read_apptainer, read_dockerfile
from scratch_root import NoScratchRoot, ScratchRoot

PACKAGES = (" python3.12 python3.12-dev python3.12-venv", " python3 python3-dev python3-venv")
PACKAGES_HERE = {"PYTHONPATH": sysconfig.get_path("purelib")}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HAS_USER = {"Dockerfile": "ubuntu", "Dockerfile.cpu": None}  # of number 1000, in the base image

pytestmark = pytest.mark.slow


class Build:
    """A recipe being followed. env, cwd, user: as its instructions have set them so far."""

    def __init__(self, root: ScratchRoot, context: Path) -> None:
        self.root, self.context = root, context
        self.env = {"PATH": PATH}
        self.cwd, self.user = "/", 0

    def run(self, *command: str, **more: str) -> str:
        """Run a command as the image would; its output. more: environment besides the image's."""
        env = {"OMP_NUM_THREADS": "1", **more, **self.env}
        done = self.root.run(*command, cwd=self.cwd, env=env, user=self.user)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, text: str) -> str:
        """Run lines of shell, with the packages of this system."""
        if "apt-get" in text:
            self._needs_archive()
        pip = {"PIP_NO_INDEX": "true", "PIP_NO_BUILD_ISOLATION": "false"}  # which is how pip says it: none
        more = {**pip, **PACKAGES_HERE} if "pip install" in text else {}
        return self.run("bash", "-e", "-o", "pipefail", "-c", text.replace(*PACKAGES), **more)

    def copy(self, source: str, to: str) -> None:
        """Copy a file of the context to a path, or the content of a folder to one."""
        folder = self.context / source
        self.run("mkdir", "-p", to if folder.is_dir() else str(Path(to).parent))
        self.run("cp", "-a", f"{folder}/." if folder.is_dir() else str(folder), to)

    def _needs_archive(self) -> None:
        done = self.root.run("apt-get", "update", "--error-on=any")
        if done.returncode != 0:
            pytest.skip(f"no archive of packages can be reached: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an engine would be given of the checkout."""
    folder, rules = tmp_path_factory.mktemp("context"), (ROOT / ".dockerignore").read_text()
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines():
        if not ignored(name, rules) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for place in (folder, *folder.parents):
        if place.stat().st_uid == os.getuid() and place.name.startswith(("pytest", "context")):
            place.chmod(0o755)
    return folder


@pytest.fixture
def build(tmp_path: Path, context: Path) -> Iterator[Build]:
    """Before the first instruction; skips where no scratch root can be made."""
    if shutil.which("apt-get") is None:
        pytest.skip("the images install packages with apt-get, which is not here")
    python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    try:
        with ScratchRoot(tmp_path / "scratch", needs=(context, python, Path(sys.prefix))) as root:
            for name in ("python", "python3.12"):
                # No link: a virtual environment would look for its library beside that.
                text = (
                    f"rm -f /usr/local/bin/{name}; printf '#!/bin/sh\\nexec {python} \"$@\"\\n' > /usr/local/bin/{name}"
                )
                root.run("sh", "-c", f"{text}; chmod a+x /usr/local/bin/{name}")
            for place in {*python.parents, *Path(sysconfig.get_path("purelib")).parents}:
                root.run("chmod", "a+rx", str(place))
            yield Build(root, context)
    except NoScratchRoot as error:
        pytest.skip(f"a scratch root needs root's rights and overlays: {error}")


def give_user(root: ScratchRoot, name: str | None) -> None:
    """Make `name` the user 1000, or leave that number free."""
    there = root.run("id", "--name", "--user", "1000")
    if there.returncode == 0:
        assert root.run("userdel", "--force", there.stdout.strip()).returncode == 0
    if name is not None:
        made = root.run("useradd", "--create-home", "--uid", "1000", "--user-group", name)
        assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("name", HAS_USER)
def test_the_commands_of_a_dockerfile_make_an_image_that_trains(name: str, build: Build) -> None:
    give_user(build.root, HAS_USER[name])
    ran = 0
    for line in read_dockerfile(ROOT / "docker" / name):
        word, _, rest = line.partition(" ")
        if word == "RUN":
            build.shell(rest)
            ran += 1
        elif word == "ENV":
            for pair in shlex.split(rest):
                key, _, value = pair.partition("=")
                build.env[key] = value.replace("$PATH", build.env["PATH"])
        elif word == "WORKDIR":
            build.run("mkdir", "-p", rest)
            build.cwd = rest
        elif word == "COPY":
            *sources, to = rest.split()
            for source in sources:
                build.copy(source, str(Path(build.cwd, to, "" if to == source else source)))
        elif word == "USER":
            build.user = int(rest)
        elif word == "ENTRYPOINT":
            entry = json.loads(rest)
        else:
            assert word in ("FROM", "SHELL", "VOLUME"), line
    assert ran == 3
    which = build.run("python", "-c", "import iwin, os; print(iwin.__file__, os.getuid())", **PACKAGES_HERE)
    assert which == "/app/src/iwin/__init__.py 1000\n"
    printed = build.run(*entry, "debug=smoke", "data.num_workers=0", **PACKAGES_HERE)
    assert "Results   /runs/" in printed


def test_the_commands_of_apptainer_s_recipe_make_an_image_that_starts(build: Build) -> None:
    recipe = read_apptainer(APPTAINER)
    for source, to in recipe.files.items():
        build.copy(source, to)
    # It knows no .dockerignore: what git ignores in the checkout is copied as well.
    build.run("mkdir", "-p", "/app/conf/local")
    build.run("touch", *(f"/app/conf/local/{name}" for name in ("example.yaml", "default.yaml", "slurm.yaml")))
    prepare, install = "\n".join(recipe.post).split("\ncd /app\n")
    build.shell(prepare)
    build.cwd = "/app"
    build.shell(install)
    assert build.run("ls", "/app/conf/local").split() == ["example.yaml"]
    for key, value in recipe.environment.items():
        build.env[key] = value.replace("$PATH", build.env["PATH"])
    build.run("chmod", "777", "/runs")  # where a folder of the user's is bound to
    build.user = 1234
    (line,) = recipe.runscript
    assert "iwin_micro" in build.run("sh", "-c", line, "sh", "--cfg", "job", **PACKAGES_HERE)
