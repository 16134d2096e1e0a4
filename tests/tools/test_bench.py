"""`iwin bench data` measures what it says: the same images, the same work, in turns; its figures are all there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import iwin.tools.bench.images as bench_images
from iwin.tools.bench.agreement import Difference
from iwin.tools.bench.images import PHOTOGRAPHS, BenchImages, find_or_make
from iwin.tools.bench.pipelines import OURS, SIDE, WAYS, jobs
from iwin.tools.bench.rounds import Turns, one_core, ratios, take_turns
from iwin.tools.cli import main

COUNT = 24


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> BenchImages:
    return find_or_make(tmp_path_factory.mktemp("bench") / "images", COUNT, seed=0)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_images_are_the_same_at_the_same_seed_and_others_at_another(images: BenchImages, tmp_path: Path) -> None:
    again, other = find_or_make(tmp_path / "again", COUNT, seed=0), find_or_make(tmp_path / "other", COUNT, seed=1)
    assert contents(again.root) == contents(images.root)
    assert not set(contents(other.folder).values()) & set(contents(images.folder).values())


def test_the_images_are_like_imagenets(images: BenchImages) -> None:
    sizes = []
    for path in images.folder.rglob("*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert image.layer[0][1:3] == (2, 2)  # chroma has half the resolution both ways
            assert image.layer[1][1:3] == image.layer[2][1:3] == (1, 1)
            sizes.append(image.size)
    assert len(sizes) == COUNT
    assert images.mean_pixels == np.mean([width * height for width, height in sizes])
    assert 100_000 < images.mean_bytes < 120_000
    assert {max(size) for size in sizes} == {500}


def test_images_of_an_earlier_call_are_taken_and_nothing_else(
    images: BenchImages, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = contents(images.root)
    assert find_or_make(images.root, COUNT, seed=0) == images
    assert contents(images.root) == before
    assert main(["bench", "data", "--folder", str(images.root), "--images", "30"]) == 2
    assert f"holds {COUNT} images of seed 0, not 30" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("a letter")
    assert main(["bench", "data", "--folder", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["bench", "data", "--images", str(len(PHOTOGRAPHS) - 1)]) == 2
    assert "--images must be a whole number" in capsys.readouterr().err


def test_without_scikit_image_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bench_images, "find_spec", lambda name: None)
    assert main(["bench", "data"]) == 2
    assert "pip install 'iwin[bench]'" in capsys.readouterr().err


@pytest.mark.parametrize("number", range(3))
def test_every_way_makes_batches_of_all_the_images(images: BenchImages, number: int) -> None:
    job = jobs()[number]
    labels = sorted(index % len(PHOTOGRAPHS) for index in range(COUNT))
    for name, way in WAYS.items():
        pixels, targets = next(way(images, job, COUNT))
        assert pixels.shape == (COUNT, 3, SIDE, SIDE), name
        assert sorted(targets.tolist()) == labels, name
        assert pixels.dtype == (torch.uint8 if name in (OURS, "timm's transform and loader") else torch.float32), name


def test_every_way_makes_the_same_pixels_in_evaluation(images: BenchImages) -> None:
    """They come in different orders, so the images are matched by their mean colours."""
    means = {}
    for name, way in WAYS.items():
        pixels = next(way(images, jobs()[2], COUNT))[0]
        scaled = pixels if pixels.dtype == torch.float32 else _normalised(pixels)
        means[name] = np.array(sorted(scaled.mean((2, 3)).tolist()))
    for name, found in means.items():
        np.testing.assert_allclose(found, means[OURS], atol=0.01, err_msg=name)


def _normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def test_ways_take_turns_by_batch_after_one_that_is_not_counted() -> None:
    order: list[str] = []

    def way(name: str) -> Iterator[tuple[np.ndarray]]:
        while True:
            order.append(name)
            yield (np.zeros((5, 1)),)

    turns = take_turns({name: way(name) for name in "abc"}, rounds=2, batches=3)
    assert "".join(order) == "abc" * (1 + 2 * 3)
    assert {name: turn.images for name, turn in turns.items()} == dict.fromkeys("abc", 30)
    assert all(len(turn.worked) == len(turn.passed) == 2 for turn in turns.values())


def test_ratios_are_of_the_same_round() -> None:
    ours, theirs = Turns(20, [1.0, 2.0], [2.0, 4.0]), Turns(20, [2.0, 8.0], [2.0, 8.0])
    assert ratios(ours, theirs) == [2, 4]
    assert ours.images_per_second == [10, 5]
    assert (ours.share, theirs.share) == (0.5, 1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux keeps a process on a core")
def test_one_core_is_given_back() -> None:
    def state() -> tuple[object, ...]:
        return os.sched_getaffinity(0), torch.get_num_threads(), cv2.getNumThreads()

    before = state()
    with one_core() as pinned:
        assert pinned
        assert len(os.sched_getaffinity(0)) == torch.get_num_threads() == 1
    assert state() == before


def test_a_difference_is_absolute_and_over_all_values() -> None:
    black, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)
    assert Difference.between([(black, black), (black, grey), (grey, black), (grey, grey)]) == (100, 200, 0.5)


def test_the_command_writes_every_figure(images: BenchImages, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "figures.json"
    command = ["bench", "data", "--folder", str(images.root), "--images", str(COUNT), "--rounds", "1"]
    assert main([*command, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["images"] == images.facts()
    assert set(figures["jobs"]) == {job.name for job in jobs()}
    for name, job in figures["jobs"].items():
        assert set(job["ways"]) == set(WAYS)
        for way in job["ways"].values():
            assert way["images"] == COUNT == figures["images_a_round"]
            assert (
                min(
                    *way["images_per_s"].values(),
                    *way["ours_to_it"].values(),
                    *way["seconds_worked"],
                    *way["seconds_passed"],
                )
                > 0
            )
        assert (job["stages_ms"].pop("RandAugment") > 0) == (name == "DeiT recipe")
        assert min(job["stages_ms"].values()) > 0
    differences = figures["differences"]
    assert {"training crop", "evaluation", "RandAugment", "Rotate", "Equalize"} < set(differences)
    for difference in differences.values():
        assert 0 <= difference["mean"] < 3
        assert 0 <= difference["share"] < 1
    for text in (*WAYS, *figures["jobs"], *differences):
        assert text in printed


def test_a_json_file_in_no_folder_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", "data", "--json", str(tmp_path / "absent" / "figures.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_the_quality_of_shuffles_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "shuffle", "--samples", "5000", "--samples-per-shard", "50", "--batch", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5000 samples in 100 shards")
    distances = [float(line[15:].split()[0].rstrip("%")) for line in lines[2:]]
    assert len(distances) == 5
    assert distances == sorted(distances)
    assert distances[-1] == pytest.approx(33.3, abs=0.7)


@pytest.mark.slow
def test_the_index_of_a_large_data_set_is_measured(tmp_path: Path) -> None:
    told = tmp_path / "index.json"
    sizes = ["--samples", "50000", "--samples-per-shard", "500", "--ranks", "2", "--workers", "1", "--batches", "5"]
    assert main(["bench", "index", *sizes, "--json", str(told)]) == 0
    figures = json.loads(told.read_text())
    assert figures["samples"] == 50000
    assert all(figures[name] > 0 for name in ("open_s", "order_s", "megabytes"))
