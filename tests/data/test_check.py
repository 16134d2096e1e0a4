"""`iwin shards check` finds every damage that is done to a whole data set, and nothing else."""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_images import square

from iwin.data.check import check_data_set
from iwin.data.index import ShardIndex, index_path, write_index
from iwin.data.manifest import MANIFEST
from iwin.data.writer import DataSetWriter, Sample
from iwin.errors import ConfigError, DataError
from iwin.tools.shards import add_parser


@pytest.fixture
def root(tmp_path: Path) -> Path:
    samples = [Sample(f"key-{i}", square(i), "png", i % 3) for i in range(10)]
    with DataSetWriter(tmp_path / "set", classes=["a", "b", "c"], about={}) as writer:
        writer.write_split("train", samples[:6], samples_per_shard=3)
        writer.write_split("val", samples[6:], samples_per_shard=4)
    return tmp_path / "set"


def check(root: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["shards", "check", str(root), *options])
    return arguments.func(arguments)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((root / MANIFEST).read_text())
    change(manifest)
    (root / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("options", [(), ("--deep",), ("--deep", "--jobs", "2")])
def test_a_whole_data_set_is_right(root: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert check(root, *options) == 0
    out = capsys.readouterr().out
    assert "right: 6 train in 2 shards, 4 val in 1 shards, 3 classes" in out
    assert ("every image decoded" in out) == bool(options)


def lose_a_shard(root: Path) -> None:
    (root / "train-00001.tar").unlink()
    (root / "train-00001.idx").unlink()


def add_a_shard(root: Path) -> None:
    for suffix in (".tar", ".idx"):
        shutil.copy((root / "val-00000.tar").with_suffix(suffix), (root / "val-00001.tar").with_suffix(suffix))


def exchange_a_shard(root: Path) -> None:
    shutil.copy(root / "val-00000.tar", root / "train-00000.tar")
    write_index(root / "train-00000.tar")


@pytest.mark.parametrize(
    ("damage", "problems"),
    [
        (lose_a_shard, ["train-00001.tar: missing"]),
        (add_a_shard, ["val-00001.tar: not in the manifest"]),
        (exchange_a_shard, ["train-00000.tar: samples 4, and the manifest tells 3", "train-00000.tar: sha256 "]),
        (lambda root: (root / "val-00000.idx").unlink(), ["val-00000.tar has no index"]),
        (lambda root: (root / "val-00000.tar").unlink(), ["val-00000.tar: missing", "val-00000.idx: an index without"]),
        (lambda root: (root / "x.tar.partial").touch(), ["x.tar.partial: left over"]),
        (
            lambda root: (root / "val-00000.tar").write_bytes((root / "val-00000.tar").read_bytes()[:-512]),
            ["val-00000.tar holds .* bytes"],
        ),
        (
            lambda root: edit_manifest(root, lambda told: told["classes"].pop()),
            [r"train-00000.tar: 1 labels out of range \(first: 2, key 'key-2'\)", "train-00001", "val-00000"],
        ),
        (
            lambda root: edit_manifest(root, lambda told: told["splits"]["val"].update(samples=5)),
            ["contradicts itself"],
        ),
        (lambda root: edit_manifest(root, lambda told: told.pop("splits")), ["manifest.json is damaged"]),
        (lambda root: (root / MANIFEST).write_text("{"), ["is no JSON"]),
    ],
)
def test_a_damage_is_told_with_its_place(
    root: Path, damage: Callable[[Path], object], problems: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(root)
    assert check(root) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop() == f"{root}: wrong in {len(problems)} places"
    for line, problem in zip(lines, problems, strict=True):
        assert re.search(problem, line)


def test_a_changed_byte_is_found_by_the_deep_check_alone(root: Path) -> None:
    tar = root / "train-00001.tar"
    flip(tar, int(ShardIndex(tar).offsets[1]) + 20)
    assert check_data_set(root, deep=False).problems == []
    hashes, image = check_data_set(root, deep=True).problems
    assert f"{tar}: its bytes have sha256" in hashes
    assert f"{tar}:key-4 cannot be decoded" in image or f"{tar}:key-4 is no" in image


def test_an_index_of_other_labels_is_found_by_the_deep_check(root: Path) -> None:
    flip(root / "train-00000.idx", 64 + 3 * (8 + 4))
    assert check_data_set(root, deep=False).problems == []
    (problem,) = check_data_set(root, deep=True).problems
    assert "train-00000.tar: its index does not tell what it holds" in problem


def test_an_image_that_was_never_one_is_found_by_the_deep_check(tmp_path: Path) -> None:
    samples = [Sample("good", square(1), "png", 0), Sample("bad", b"not an image", "jpg", 0)]
    with DataSetWriter(tmp_path / "set", classes=["a"], about={}) as writer:
        writer.write_split("train", samples, samples_per_shard=9)
    assert check_data_set(tmp_path / "set", deep=False).problems == []
    (problem,) = check_data_set(tmp_path / "set", deep=True).problems
    assert "train-00000.tar:bad is no JPEG" in problem


def test_a_key_in_two_shards_of_a_split_is_found(tmp_path: Path) -> None:
    samples = [Sample(key, square(i), "png", 0) for i, key in enumerate(("one", "two", "three", "two"))]
    with DataSetWriter(tmp_path / "set", classes=["a"], about={}) as writer:
        writer.write_split("train", samples, samples_per_shard=2)
        writer.write_split("val", samples[:2], samples_per_shard=2)
    (problem,) = check_data_set(tmp_path / "set", deep=False).problems
    assert "train-00000.tar: key 'two' comes again" in problem
    assert problem.endswith("train-00001.tar.")


def test_shards_of_another_tool_are_checked_without_a_manifest(tmp_path: Path) -> None:
    tar = tmp_path / "foreign.tar"
    with tarfile.open(tar, "w") as file:
        for name, body in (("a.cls", b"1"), ("a.png", square(1))):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
    (problem,) = check_data_set(tmp_path, deep=True).problems
    assert "has no index" in problem
    write_index(tar)
    report = check_data_set(tmp_path, deep=True)
    assert report.problems == []
    assert "1 samples in 1 shards; no manifest" in report.summary
    index_path(tar).write_bytes(b"")
    assert len(check_data_set(tmp_path, deep=False).problems) == 1


def test_nothing_to_check_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        check_data_set(tmp_path / "nowhere", deep=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no .tar file and no manifest.json"):
        check_data_set(tmp_path / "empty", deep=False)
    with pytest.raises(ConfigError, match="--jobs is 0"):
        check_data_set(root, deep=False, jobs=0)
