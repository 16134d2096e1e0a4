"""The doctor on limits, folders and the network."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from iwin.tools.doctor import folders, limits, network
from iwin.tools.doctor.finding import Finding, Level
from iwin.tools.doctor.job import Job

Usage = namedtuple("Usage", "total used free")
OK, WARNING, WRONG = Level.OK, Level.WARNING, Level.WRONG


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Eight ranks of ImageNet-1K: 8 workers with 4 batches of 128 images of 224 pixels ready."""
    batch = 128 * 224 * 224 * 3
    return Job(8, 8, 4, batch, batch, "bf16-mixed", 1_400_000_000, tmp_path / "runs")


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * free, free, free))


def set_limit(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))


# Limits


def test_docker_gives_64_mb_of_shared_memory_which_is_too_little(monkeypatch, job: Job) -> None:
    set_free(monkeypatch, 64_000_000)
    finding = limits.shared_memory(job)
    assert finding.level is WRONG
    need = 8 * 8 * 5 * 2 * 128 * 224 * 224 * 3
    assert f"{need / 1e9:.1f} GB needed" in finding.said
    assert "--shm-size" in finding.advice
    set_free(monkeypatch, int(1.2 * need))
    assert limits.shared_memory(job).level is WARNING
    set_free(monkeypatch, 2 * need)
    assert limits.shared_memory(job).level is OK
    set_free(monkeypatch, 0)
    assert limits.shared_memory(job._replace(workers=0)).level is OK
    monkeypatch.setattr(limits, "SHARED_MEMORY", Path("/nowhere"))
    assert limits.shared_memory(job).level is WRONG


@pytest.mark.parametrize(
    ("soft", "hard", "level", "advice"),
    [
        (64, 64, WRONG, "limits.conf"),
        (64, 1_000_000, WRONG, "ulimit -n"),
        (64, resource.RLIM_INFINITY, WRONG, "ulimit -n"),
        (65_536, 65_536, OK, ""),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, OK, ""),
    ],
)
def test_open_files(monkeypatch, job: Job, soft: int, hard: int, level: Level, advice: str) -> None:
    set_limit(monkeypatch, soft, hard)
    finding = limits.open_files(job)
    assert finding.level is level
    assert advice in finding.advice


def test_processes_of_the_user_and_of_the_container(monkeypatch, tmp_path: Path, job: Job) -> None:
    monkeypatch.setattr(limits, "GROUP", tmp_path)
    set_limit(monkeypatch, resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    (tmp_path / "pids.max").write_text("max\n")
    assert limits.processes(job).level is OK
    (tmp_path / "pids.max").write_text("100\n")
    assert "pids.max" in limits.processes(job).said
    assert limits.processes(job).level is WRONG
    set_limit(monkeypatch, 64, 64)
    assert "ulimit -u is 64" in limits.processes(job).said


def test_cores_that_are_seen_and_cores_that_are_paid_for(monkeypatch, tmp_path: Path, job: Job) -> None:
    monkeypatch.setattr(limits, "GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(72)))
    assert limits.cores(job).level is OK
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert limits.cores(job).level is OK
    (tmp_path / "cpu.max").write_text("3200000 100000\n")
    finding = limits.cores(job)
    assert finding.level is WARNING
    assert "32 usable" in finding.said
    assert "data.num_workers=3 " in finding.advice


# Folders


def look(job: Job, name: str) -> Finding:
    (check,) = [check for check in folders.checks(job) if check.name == name]
    finding = check.look()
    assert isinstance(finding, Finding)
    return finding


@pytest.mark.parametrize("name", ["output space", "output speed", "locks", "clock"])
def test_a_folder_that_cannot_be_written_is_wrong_and_named(tmp_path: Path, job: Job, name: str) -> None:
    (tmp_path / "file").write_text("")
    finding = look(job._replace(runs=tmp_path / "file" / "runs"), name)
    assert finding.level is WRONG
    assert str(tmp_path / "file") in finding.said
    assert "paths.runs_dir" in finding.advice


def test_a_folder_that_is_written_is_as_before(tmp_path: Path, job: Job) -> None:
    for name in ("output speed", "locks", "clock"):
        assert look(job._replace(checkpoint=1), name).level in (OK, WARNING)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_for_the_checkpoints_is_wrong(monkeypatch, job: Job) -> None:
    set_free(monkeypatch, 1_000_000_000)
    finding = look(job, "output space")
    assert finding.level is WRONG
    assert "1.0 GB free" in finding.said
    assert "5.6 GB needed" in finding.said
    set_free(monkeypatch, 8_000_000_000)
    assert look(job, "output space").level is WARNING
    set_free(monkeypatch, 80_000_000_000)
    assert look(job, "output space").level is OK


@pytest.mark.parametrize(("rate", "sync", "level"), [(1e9, 0.001, OK), (1e6, 0.001, WARNING), (1e9, 1.0, WARNING)])
def test_speed(rate: float, sync: float, level: Level) -> None:
    finding = folders.judge_speed(rate, sync, 100_000_000)
    assert finding.level is level
    assert f"takes {1e8 / rate + 2 * sync:.1f} s" in finding.said


def test_locks_that_do_nothing_are_wrong(monkeypatch, job: Job) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda file, operation: None)
    finding = look(job, "locks")
    assert finding.level is WRONG
    assert "does not keep another process out" in finding.said

    def not_there(file: Any, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", not_there)
    assert "Operation not supported" in look(job, "locks").said


@pytest.mark.parametrize(("skew", "level"), [(0.1, OK), (-3.0, OK), (60.0, WARNING), (-60.0, WARNING)])
def test_clocks(skew: float, level: Level) -> None:
    assert folders.judge_clock(skew).level is level


def test_temporary_files(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    (tmp_path / ("long" * 20)).mkdir()
    assert folders.temporary().level is WRONG
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    set_free(monkeypatch, 1)
    assert folders.temporary().level is WARNING


# Network


def test_a_name_that_leads_elsewhere_is_wrong_for_ranks(monkeypatch) -> None:
    elsewhere = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **keys: elsewhere)
    finding = network.host_name(2)
    assert finding.level is WRONG
    assert "192.0.2.1" in finding.said
    assert "/etc/hosts" in finding.advice
    assert network.host_name(1).level is WARNING

    def unknown(*args: Any, **keys: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in network.host_name(2).said


@pytest.mark.slow
def test_two_ranks_add_up() -> None:
    assert network.collective("gloo", 60.0).level is OK


def test_ranks_that_do_not_meet_are_wrong_and_gone(monkeypatch) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(*args: Any, **keys: Any) -> subprocess.Popen[str]:
        started.append(popen(*args, **keys))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(network, "RANK", "import signal; signal.pause()")
    finding = network.collective("gloo", 0.05)
    assert finding.level is WRONG
    assert "no answer within 0.05 s" in finding.said
    monkeypatch.setattr(network, "RANK", "raise SystemExit('no such interface')")
    assert "rank 0 failed: no such interface" in network.collective("gloo", 60.0).said
    assert len(started) == 4
    assert all(process.returncode is not None for process in started)
    assert sys.executable in started[0].args[0]
