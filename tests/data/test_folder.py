from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_images import square

from iwin.data.folder import FolderDataset, find_images, stratified_split
from iwin.errors import ConfigError, DataError


def test_every_image_is_found_with_its_class(class_folders: Path) -> None:
    nested = class_folders / "bee" / "more"
    nested.mkdir()
    (nested / "x.JPEG").write_bytes(b"not looked at yet")
    (class_folders / "bee" / ".DS_Store").write_bytes(b"")
    (class_folders / "bee" / "Thumbs.db").write_bytes(b"")
    (class_folders / ".cache").mkdir()
    data = FolderDataset(find_images(class_folders), None, None)
    assert data.classes == ["ant", "bee", "cat"]
    assert np.bincount(data.labels).tolist() == [4, 6, 6]
    assert data.labels.dtype == np.int32
    assert [data.key(0), data.key(9)] == ["ant/ant.0.png", "bee/more/x.JPEG"]
    assert data.read(6) == square(42)


def test_the_other_splits_classes_number_the_labels(class_folders: Path) -> None:
    shutil.rmtree(class_folders / "bee")
    files = find_images(class_folders, ["ant", "bee", "cat"])
    assert np.bincount(files.labels).tolist() == [4, 0, 6]
    with pytest.raises(DataError, match="cat is a class that the training split does not have"):
        find_images(class_folders, ["ant", "bee"])


@pytest.mark.parametrize("name", ["notes.txt", "scan.tif"])
def test_a_file_that_is_no_image_is_not_passed_over(class_folders: Path, name: str) -> None:
    (class_folders / "bee" / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"bee/{name} is not an image"):
        find_images(class_folders)


def test_missing_and_empty_folders_are_named(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no class folders"):
        find_images(class_folders / "ant")
    (class_folders / "dog").mkdir()
    with pytest.raises(DataError, match="dog holds no images"):
        find_images(class_folders)


def test_an_image_that_went_away_is_named(class_folders: Path) -> None:
    data = FolderDataset(find_images(class_folders), None, None)
    (class_folders / "ant" / "ant.1.png").unlink()
    with pytest.raises(DataError, match=r"ant.1.png cannot be read: No such file"):
        data.read(1)


def test_provenance_changes_with_the_files(class_folders: Path) -> None:
    before = FolderDataset(find_images(class_folders), None, None).describe()
    assert before == FolderDataset(find_images(class_folders), None, None).describe()
    (class_folders / "ant" / "ant.1.png").rename(class_folders / "ant" / "ant.7.png")
    assert before["paths_sha256"] != FolderDataset(find_images(class_folders), None, None).describe()["paths_sha256"]


def test_a_split_takes_its_share_of_every_class_and_is_a_function_of_the_seed() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])[np.random.default_rng(0).permutation(113)]
    train, val = stratified_split(labels, 0.2, seed=5)
    assert sorted([*train, *val]) == list(range(113))
    assert np.bincount(labels[val], minlength=4).tolist() == [20, 2, 1, 0]
    again, other = stratified_split(labels, 0.2, seed=5)[1], stratified_split(labels, 0.2, seed=6)[1]
    assert np.array_equal(val, again)
    assert not np.array_equal(val, other)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 20])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match=f"val_fraction is {fraction}"):
        stratified_split(np.array([0, 0, 1, 1]), fraction, 0)


def test_single_images_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="every class has a single image"):
        stratified_split(np.array([0, 1]), 0.5, 0)
