"""The doctor finds what is wrong with a machine, says what to do, and leaves nothing behind."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

from iwin.conf import conf_dir
from iwin.errors import ConfigError
from iwin.tools.cli import main
from iwin.tools.doctor import devices, network, software
from iwin.tools.doctor.finding import Check, Finding, Level, examine, ok, report, wrong
from iwin.tools.doctor.job import configure, job_of, ranks_of

Usage = namedtuple("Usage", "total used free")
OK, WARNING, WRONG = Level.OK, Level.WARNING, Level.WRONG


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * free, free, free))


def set_limit(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))


# The whole


def test_a_healthy_machine_is_well_and_nothing_is_left(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(network, "collective", lambda backend, timeout_s: ok(backend))
    assert main(["doctor", "--runs", str(tmp_path / "runs"), "--data", "data.num_workers=0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(" 0 wrong")
    assert any("1,438 images to train" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_sick_machine_is_told_in_full_with_exit_code_1(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(network, "collective", lambda backend, timeout_s: wrong("no answer", "a firewall?"))
    set_free(monkeypatch, 64_000_000)
    set_limit(monkeypatch, 64, 64)
    empty = tmp_path / "empty"
    empty.mkdir()
    overrides = ["data=in1k", f"data.root={empty}", "model=iwin_b", "trainer.devices=2"]
    assert main(["doctor", "--runs", str(tmp_path), "--data", *overrides]) == 1
    said = capsys.readouterr().out
    for name in ("shared memory", "open files", "data", "output space", "collective"):
        assert f"wrong    {name}" in said, said
    assert "iwin shards write" in said
    assert said.rstrip().endswith("wrong")


def test_what_is_no_configuration_is_said_before_anything_is_looked_at(capsys) -> None:
    assert main(["doctor", "--data", "data=in1kk"]) == 2
    assert "in1k" in capsys.readouterr().err
    assert main(["doctor", "--data", "+callbacks.x={_target_: os.system}"]) == 2
    assert "may not be named" in capsys.readouterr().err


def test_a_check_that_raises_is_wrong_and_the_others_go_on(capsys) -> None:
    def breaks() -> Finding:
        raise ZeroDivisionError("by nought")

    def refuses() -> Finding:
        raise ConfigError("data.root is not set: set it")

    checks = [Check("one", breaks), Check("two", refuses), Check("three", lambda: [ok("fine"), ok("token=abc")])]
    found = list(examine(checks))
    assert [(name, finding.level) for name, finding in found] == [
        *(("one", WRONG), ("two", WRONG)),
        *(("three", OK), ("three", OK)),
    ]
    assert found[0][1].said == "ZeroDivisionError: by nought"
    assert found[1][1].said == "data.root is not set: set it"
    assert not report(checks)
    assert "token=***" in capsys.readouterr().out


# The job


def test_the_job_is_the_configurations() -> None:
    job = job_of(configure(["data=in1k", "model=iwin_t", "trainer.devices=8"]))
    assert job[:6] == (8, 8, 4, 128 * 224 * 224 * 3, 128 * 224 * 224 * 3, "bf16-mixed")
    assert job.runs.is_absolute()
    assert 16 * 28e6 < job.checkpoint < 16 * 32e6, "Iwin-T has 30 M parameters"
    assert job_of(configure(["data=folder", "data.image_size=[32,64]"])).train_batch == 64 * 32 * 64 * 3


@pytest.mark.parametrize(("devices", "ranks"), [(4, 4), ("3", 3), ([0, 2], 2)])
def test_ranks_of_devices(devices: object, ranks: int) -> None:
    assert ranks_of(devices) == ranks


@pytest.mark.parametrize("devices", ["auto", -1])
def test_ranks_where_the_machine_decides(monkeypatch, devices: object) -> None:
    for there, ranks in ((0, 1), (6, 6)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: there)
        assert ranks_of(devices) == ranks


# Software


def test_the_versions_here_are_the_ones_needed() -> None:
    for check in software.checks():
        finding = check.look()
        assert isinstance(finding, Finding)
        assert finding.level is OK, finding


@pytest.mark.parametrize(("needed", "said"), [("torch>=999", "torch 2"), ("iwin-absent>=1", "not installed")])
def test_a_package_that_does_not_fit_is_named(monkeypatch, needed: str, said: str) -> None:
    monkeypatch.setattr(software, "declared", lambda: (">=99", [Requirement(needed), Requirement("numpy")]))
    (finding,) = software.packages()
    assert finding.level is WRONG
    assert said in finding.said
    assert "pip install" in finding.advice
    assert software.python().level is WRONG


def test_torchvision_for_another_torch_is_wrong(monkeypatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["torch==1.0"])
    assert software.torchvision_fits().level is WRONG


# Devices


def fake_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s\\n' '{output}'\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_machine_without_a_gpu_is_wrong_only_where_one_is_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "told_by_driver", list)
    assert devices.gpus(required=False).level is OK
    assert devices.gpus(required=True).level is WRONG


def test_a_gpu_that_torch_cannot_use_is_wrong(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fake_smi(tmp_path, monkeypatch, "NVIDIA Test, 470.57")

    def too_old() -> None:
        raise RuntimeError("the NVIDIA driver on your system is too old\nmore")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    finding = devices.gpus(required=False)
    assert finding.level is WRONG
    for word in ("NVIDIA Test, 470.57", "CUDA 13.0", "is too old"):
        assert word in finding.said
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for CPUs" in devices.gpus(required=False).said


@pytest.mark.parametrize(
    ("precision", "cuda", "bf16", "level"),
    [
        *(("32-true", False, False, OK), ("32-true", True, False, OK)),
        *(("16-mixed", False, True, WRONG), ("16-mixed", True, False, OK)),
        *(("bf16-mixed", True, False, WRONG), ("bf16-mixed", True, True, OK)),
        *(("bf16-mixed", False, False, WARNING), ("bf16-mixed", False, True, OK)),
    ],
)
def test_precision(monkeypatch, precision: str, cuda: bool, bf16: bool, level: Level) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: bf16)
    assert devices.precision(precision).level is level


@pytest.mark.gpu
def test_the_gpus_here_multiply() -> None:
    for finding in devices.gpus(required=True):
        assert finding.level in (OK, WARNING)


# Data


@pytest.mark.parametrize("fault", ["absent", "no index", "unreadable"])
def test_data_that_cannot_be_used_is_wrong(capsys, monkeypatch, tmp_path: Path, fault: str) -> None:
    digits = conf_dir().parent / "src" / "iwin" / "data" / "digits"
    root = tmp_path / "digits"
    if fault != "absent":
        shutil.copytree(digits, root)
    if fault == "no index":
        for file in root.iterdir():
            if file.suffix != ".tar":
                file.unlink()
    if fault == "unreadable":
        open_file = os.open

        def refuse(path: Any, *args: Any, **keys: Any) -> int:
            if str(path).endswith(".tar"):
                raise PermissionError(13, "Permission denied", str(path))
            return open_file(path, *args, **keys)

        monkeypatch.setattr(os, "open", refuse)
    from iwin.tools.doctor import data

    ((_, finding),) = examine([Check("data", lambda: data(configure([f"data.root={root}", "data.num_workers=0"])))])
    assert finding.level is WRONG
    word = {"absent": str(root), "no index": "iwin shards index", "unreadable": "Permission denied"}[fault]
    assert word in finding.said
