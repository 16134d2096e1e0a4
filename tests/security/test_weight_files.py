"""A file of weights runs nothing, whoever loads it."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

PACKAGE = Path(__file__).parents[2] / "src" / "iwin"
FILES = sorted(PACKAGE.rglob("*.py"))


class Trap:
    """Unpickling this makes the folder that it names."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.marker,)


def calls(path: Path) -> list[tuple[str, dict[str, ast.expr], int]]:
    """Every call in a file: dotted name, keywords, line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            keywords = {word.arg: word.value for word in node.keywords if word.arg}
            found.append((ast.unparse(node.func), keywords, node.lineno))
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_no_code_of_ours_loads_more_than_weights_or_runs_text(path: Path) -> None:
    for name, words, line in calls(path):
        where = f"{path}:{line}: {name}"
        if name in ("torch.load", "pl_load", "load_from_checkpoint") or "ckpt_path" in words:
            given = words.get("weights_only")
            assert isinstance(given, ast.Constant), where
            assert given.value is True, where
        assert name not in ("pickle.load", "pickle.loads", "eval", "exec", "os.system", "os.popen", "yaml.load"), where
        for word in ("shell", "allow_pickle"):
            assert word not in words or ast.unparse(words[word]) == "False", where


@pytest.mark.parametrize("legacy", [False, True])
def test_an_executable_pickle_is_not_executed_by_init_or_evaluation(refused, tmp_path, marker, legacy: bool) -> None:
    file = tmp_path / "trap.ckpt"
    content = {"state_dict": {"model.a": torch.zeros(1)}, "trap": Trap(marker)}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    assert str(file) in refused("train", "init=checkpoint", f"init.path={file}")
    assert str(file) in refused("eval", f"checkpoint={file}")
    assert not marker.exists()
    torch.load(file, weights_only=False)
    assert marker.exists(), "the trap works"


def test_an_executable_pickle_is_not_executed_by_resuming(train, capsys, marker: Path) -> None:
    folder = train()
    (folder / "result.json").unlink()  # as if it had been killed at the end
    capsys.readouterr()
    for file in (folder / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        file.unlink()  # not into the same bytes, which another name may have too
        torch.save({**content, "trap": Trap(marker)}, file)
        beside = file.with_name(file.name + ".sha256")
        if beside.is_file():  # an attacker writes the right hash
            words = beside.read_text().split()
            beside.write_text(beside.read_text().replace(words[0], hashlib.sha256(file.read_bytes()).hexdigest()))
    try:
        train()
        said = train.printed
    except SystemExit:
        said = ""
    told = capsys.readouterr()
    assert not marker.exists()
    assert ".ckpt" in said + told.out + told.err, "which file it was is told"


def test_libraries_load_weights_alone_while_a_program_runs(train, monkeypatch, tmp_path: Path, marker: Path) -> None:
    torch.save(Trap(marker), tmp_path / "trap.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

    def careless(*args: object, **keys: object) -> None:
        with pytest.raises(Exception, match=r"weights_only|Weights only"):
            torch.load(tmp_path / "trap.pt", weights_only=False)

    monkeypatch.setattr("iwin.train.task.ClassificationTask.on_train_start", careless)
    train()
    assert not marker.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_hydras_pickled_configurations_are_refused(refused, marker: Path, tmp_path: Path) -> None:
    assert "pickle" in refused("train", f"--experimental-rerun={tmp_path}/config.pickle")
    assert "pickle" in refused("train", "--exp", f"{tmp_path}/config.pickle")
