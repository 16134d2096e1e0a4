"""init=checkpoint on the command line: for training, and for evaluating weights that no run of ours made."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small import released, save

import iwin
from iwin.conf import conf_dir

SHORT = ("debug=smoke", "data=digits", "data.num_workers=0")


@pytest.fixture
def refused(program, capsys: pytest.CaptureFixture):
    """Run a program that must end with exit code 2; returns its error."""

    def call(name: str, *args: str) -> str:
        with pytest.raises(SystemExit) as end:
            program(name, *args)
        assert end.value.code == 2
        return capsys.readouterr().err

    return call


def test_the_keys_of_init_are_those_of_loading() -> None:
    keys = OmegaConf.load(conf_dir() / "init" / "checkpoint.yaml").keys()
    assert list(keys) == ["path", *list(inspect.signature(iwin.load_pretrained).parameters)[2:]]


@pytest.mark.slow
def test_weights_of_others_are_evaluated_and_trained_on(tmp_path: Path, program, refused) -> None:
    weights = released(iwin.create_model("iwin_micro", num_classes=10).state_dict())
    path = save(tmp_path / "iwin.pth", {"model": weights})
    printed = program("eval", "model=iwin_micro", "data=digits", "init=checkpoint", f"init.path={path}")
    assert "iwin.pth, under model (released names)" in printed
    report = json.loads((tmp_path / "eval" / "iwin" / "eval.json").read_text())
    assert report["images"] == 359

    runs = f"paths.runs_dir={tmp_path}/runs"
    other = ("init=checkpoint", f"init.path={path}", "init.head=reset")
    printed = program("train", *SHORT, "model=iwin_micro", *other, runs)
    assert "initialised head.fc.weight: as in the model, by init.head=reset" in " ".join(printed.split())
    (run,) = (tmp_path / "runs").iterdir()
    path.unlink()  # the run's checkpoint brings its own weights
    assert "names): " in program("eval", f"checkpoint={run}/checkpoints/best.ckpt")
    error = refused("eval", f"checkpoint={run}/checkpoints/best.ckpt", "init=checkpoint", "init.path=x")
    assert "both name weights: give one of them" in error


def test_errors_name_what_to_set(tmp_path: Path, refused) -> None:
    assert "init.path" in refused("train", *SHORT, "init=checkpoint")
    assert "init.path" in refused("eval", "data=digits", "init=checkpoint")
    absent = f"init.path={tmp_path}/absent.pth"
    assert "there is no such file or folder" in refused("train", *SHORT, "init=checkpoint", absent)
    path = save(tmp_path / "w.pth", iwin.create_model("iwin_micro", num_classes=3).state_dict())
    init = ("init=checkpoint", f"init.path={path}")
    assert "set init.head=reset" in refused("train", *SHORT, "model=iwin_micro", *init)
    assert "did you mean reset?" in refused("train", *SHORT, "model=iwin_micro", *init, "init.head=resett")
    assert "there is no key init.pth; did you mean path" in refused("train", *SHORT, *init, "+init.pth=1")
    assert "no checkpoint of a run" in refused("eval", f"checkpoint={path}")
    assert "checkpoint= is needed" in refused("eval", "data=digits")
