"""`iwin report`: what it prints and writes, what it never writes over, and what it says of bad input."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from made_runs import make_run, make_sweep

from iwin.tools.cli import main

FILES = {"report.md", "report.csv", "report.tex", "report.html", "manifest.json"}


def names(folder: Path) -> set[str]:
    return {child.name for child in folder.iterdir()}


def lines(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "report.csv").open()))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures, which take most of the time."""
    monkeypatch.setattr("iwin.tools.report.make.pictures", lambda section: [])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of one finished and one failed cell."""
    folder = tmp_path / "sweep"
    make_run(folder / "none")
    cells = [
        {"overrides": {"position": "none"}, "folder": "none"},
        {"overrides": {"position": "rotary"}, "state": "failed", "reason": "out of memory"},
    ]
    return make_sweep(folder, "table7_position", cells)


def test_a_sweep_gets_its_report_beside_its_runs(sweep: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(sweep)]) == 0
    said = capsys.readouterr().out
    assert "| position=none" in said
    assert "failed: out of memory" in said
    assert "report.html" in said
    assert "    python train.py -m sweep=table7_position data=digits\n" in said
    assert names(sweep / "report") >= FILES | {"curve-accuracy.png"}
    first = {file.name: file.read_bytes() for file in (sweep / "report").iterdir()}
    assert main(["report", str(sweep)]) == 0  # the report in it is no run of it, and is replaced
    assert {file.name: file.read_bytes() for file in (sweep / "report").iterdir()} == first
    assert names(sweep) == {"none", "report", "sweep.json"}


@pytest.mark.usefixtures("undrawn")
def test_other_folders_get_their_report_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "deeper" / "b", model="swin_micro")
    monkeypatch.chdir(tmp_path)
    assert main(["report", "runs"]) == 0
    assert names(tmp_path / "report") >= FILES
    assert [line["name"] for line in lines(tmp_path / "report") if line["kind"] == "row"] == [
        "iwin_micro",
        "swin_micro",
    ]


@pytest.mark.usefixtures("undrawn")
def test_a_run_counts_once_however_often_it_is_named(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["report", str(sweep), str(sweep / "none"), str(tmp_path), "--out", str(out)]) == 0
    assert [line["name"] for line in lines(out) if line["kind"] == "row"] == ["position=none", "position=rotary"]


def test_a_report_that_shrinks_leaves_no_old_picture(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_run(tmp_path / "a")
    assert main(["report", str(tmp_path / "a"), "--out", str(out)]) == 0
    assert "accuracy-flops.png" in names(out)
    make_run(tmp_path / "b", flops=None)
    assert main(["report", str(tmp_path / "b"), "--out", str(out)]) == 0
    assert "accuracy-flops.png" not in names(out)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("how", ["a file", "a folder", "a changed report", "a report of one's own"])
def test_nothing_of_the_users_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture, how: str) -> None:
    make_run(tmp_path / "a")
    out = tmp_path / "out"
    command = ["report", str(tmp_path / "a"), "--out", str(out)]
    if how == "a report of one's own":
        out.mkdir()
        (out / "report.md").write_text("mine")
    else:
        assert main(command) == 0
        if how == "a file":
            (out / "thoughts.txt").write_text("mine")
        elif how == "a folder":
            (out / "mine").mkdir()
        else:
            (out / "report.md").write_text("mine")
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    assert main(command) == 2
    assert "Nothing was written" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == before


@pytest.mark.usefixtures("undrawn")
def test_a_full_disk_leaves_the_former_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "a")
    out = tmp_path / "out"
    command = ["report", str(tmp_path / "a"), "--out", str(out)]
    assert main(command) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "report.tex":
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(command) == 2
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert names(tmp_path) == {"a", "out"}


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_is_missing_or_has_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "runs").mkdir()
    assert main(["report", str(tmp_path / "rums"), "--out", str(tmp_path / "out")]) == 2
    assert "did you mean runs?" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    for name in ("sweep.json", "config.yaml", "provenance.json"):
        assert name in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", '{"last": {"val/top1": 0.9'),
        ("result.json", "[1, 2]"),
        ("result.json", '{"last": {"val/top1": "high"}}'),
        ("result.json", '{"last": 0.9}'),
        ("result.json", '{"updates": 1.5}'),
        ("provenance.json", '{"starts": {}}'),
        ("provenance.json", "\0\0\0"),
        ("config.yaml", "seed: [1"),
        ("config.yaml", "just words"),
        ("metrics.csv", "epoch,step,val/top1\n0,1,x\n"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture, file: str, content: str) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "a" / file).write_text(content)
    assert main(["report", str(tmp_path / "a"), "--out", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "a" / file) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{", '{"cells": [1]}', '{"cells": [{"state": "resting"}]}', '{"cells": []}'])
def test_a_damaged_sweep_is_named(tmp_path: Path, capsys: pytest.CaptureFixture, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    assert main(["report", str(tmp_path)]) == 2
    assert "sweep.json" in capsys.readouterr().err
    assert names(tmp_path) == {"sweep.json"}


def test_two_sweeps_of_one_name_have_a_section_and_pictures_each(tmp_path: Path) -> None:
    for place in ("x", "y"):
        make_run(tmp_path / place / "none")
        make_sweep(tmp_path / place, "table7_position", [{"overrides": {"position": "none"}, "folder": "none"}])
    out = tmp_path / "out"
    assert main(["report", str(tmp_path), "--out", str(out)]) == 0
    assert len({line["section"] for line in lines(out)}) == 2
    assert sum(name.endswith("curve-loss.png") for name in names(out)) == 2
    text = (out / "report.md").read_text()
    assert all(name in text for name in names(out) if name.endswith(".png"))


def test_a_sweep_without_a_file_is_called_by_what_it_sweeps(tmp_path: Path) -> None:
    for place, swept in (("a", {"position": "none", "model.window_size": "4"}), ("b", {"seed": "1"})):
        make_run(tmp_path / place / "one")
        make_sweep(tmp_path / place, "sweep", [{"overrides": swept, "folder": "one"}])
    out = tmp_path / "out"
    assert main(["report", str(tmp_path), "--out", str(out)]) == 0
    titles = {line["section"] for line in lines(out)}
    assert titles == {"Sweep of position, model.window_size", "Sweep of seeds"}
