"""Whether what is installed fits: Python, the packages that pyproject names, torch and torchvision."""

from __future__ import annotations

import importlib.metadata
import platform
import tomllib

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from iwin.conf import conf_dir
from iwin.tools.doctor.finding import Check, Finding, ok, wrong

INSTALL = "pip install -e . -c constraints.txt"


def checks() -> list[Check]:
    """Each of them needs no configuration."""
    return [
        Check("python", python),
        Check("packages", packages),
        Check("torchvision", torchvision_fits),
    ]


def declared() -> tuple[str, list[Requirement]]:
    """(the Pythons, the packages) that iwin needs: as the checkout says, or the installed wheel.

    An editable installation keeps what pyproject.toml said when it was made.
    """
    pyproject = conf_dir().parent / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text())["project"]
        return project["requires-python"], [Requirement(text) for text in project["dependencies"]]
    needed = [Requirement(text) for text in importlib.metadata.requires("iwin") or []]
    here = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return importlib.metadata.metadata("iwin")["Requires-Python"], here


def python() -> Finding:
    """The running Python against `requires-python`."""
    needed, version = declared()[0], platform.python_version()
    if not SpecifierSet(needed).contains(version, prereleases=True):
        return wrong(f"Python {version}, and iwin needs {needed}", "make a new environment with one of these")
    return ok(f"Python {version}")


def packages() -> Finding | list[Finding]:
    """Every package that iwin needs: installed, in a version that it allows."""
    needed = declared()[1]
    found = [finding for one in needed if (finding := unfit(one)) is not None]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "lightning", "timm") if not found)
    return found or ok(f"{len(needed)} as needed, among them {', '.join(versions)}")


def unfit(needed: Requirement) -> Finding | None:
    """What is wrong with the package that is needed; None where it is there and fits."""
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return wrong(f"{needed.name} is not installed, and iwin needs {needed}", INSTALL)
    if not needed.specifier.contains(version, prereleases=True):
        return wrong(f"{needed.name} {version}, and iwin needs {needed.specifier}", INSTALL)
    return None


def torchvision_fits() -> Finding:
    """torchvision has compiled parts that fit one torch alone. Importing it compares the versions of CUDA."""
    import torchvision

    advice = f"install both together, from one index: {INSTALL}"
    for one in (Requirement(text) for text in importlib.metadata.requires("torchvision") or []):
        if one.name == "torch" and unfit(one) is not None:
            return wrong(f"torchvision {torchvision.__version__} needs {one}, here is {torch.__version__}", advice)
    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
    if torchvision.ops.nms(boxes, scores, 0.5).tolist() != [0]:
        return wrong("an operator of torchvision gives a wrong result", advice)
    return ok(f"torchvision {torchvision.__version__} fits torch {torch.__version__}")
