from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from timm.data import ImageNetInfo
from tiny_images import CONF, data_keys

from iwin.data.folder import find_images
from iwin.data.index import index_path
from iwin.data.module import ImageDataModule
from iwin.data.sampler import EvalSampler
from iwin.data.source import CLASS_LISTS
from iwin.data.writer import DataSetWriter, Sample
from iwin.errors import ConfigError, DataError


def folder(root: Path | None, **changes: Any) -> ImageDataModule:
    return ImageDataModule(**data_keys("folder") | {"root": None if root is None else str(root)} | changes)


@pytest.fixture
def split_folders(class_folders: Path) -> Path:
    """<root>/train and <root>/val, each with the three classes."""
    root = class_folders.parent / "split"
    for split in ("train", "val"):
        shutil.copytree(class_folders, root / split)
    return root


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "data").glob("[!_]*.yaml")))
def test_every_key_of_a_data_yaml_is_an_argument(name: str) -> None:
    assert ImageDataModule(**data_keys(name)).source.name == name


@pytest.mark.parametrize("name", ["in1k", "in22k"])
def test_a_missing_data_set_tells_where_it_was_looked_for_what_sets_that_and_how_to_make_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"IWIN_{name.upper()}"
    monkeypatch.delenv(variable, raising=False)
    data = ImageDataModule(**data_keys(name, data_dir=tmp_path))
    with pytest.raises(DataError, match=rf"{tmp_path}/{name} .*data.root .*{variable}.*iwin shards write SRC DST"):
        data.check()
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere is not a folder"):
        ImageDataModule(**data_keys(name, data_dir=tmp_path)).check()


def test_an_empty_folder_and_one_without_shards_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} is empty.*iwin shards write"):
        ImageDataModule(**data_keys("in1k") | {"root": str(tmp_path)}).check()
    (tmp_path / "readme").write_text("")
    with pytest.raises(DataError, match=r"no shard in .* matches data.train='train-\*.tar'; there are no .tar files"):
        ImageDataModule(**data_keys("in1k") | {"root": str(tmp_path)}).check()


def test_a_missing_split_tells_what_is_there(noise) -> None:
    with pytest.raises(
        DataError, match=r"matches data.val='validation-\*.tar'; there are 5 others, as train-00000.tar"
    ):
        noise(val="validation-*.tar").check()


@pytest.mark.parametrize("classes", [2, 4])
def test_another_number_of_classes_is_refused(noise, classes: int) -> None:
    with pytest.raises(DataError, match=f"has 3 classes, and data.num_classes is {classes}"):
        noise(num_classes=classes).check()
    root = Path(noise().source.root)
    (root / "manifest.json").unlink()  # as of shards that another tool wrote
    with pytest.raises(DataError, match=r"from 0 to 2.* is 2|are of 3 classes.* is 4"):
        noise(num_classes=classes).check()


def test_foreign_shards_need_num_classes(noise) -> None:
    assert noise(num_classes=None).num_classes == 3
    (Path(noise().source.root) / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"data.num_classes is null"):
        _ = noise(num_classes=None).num_classes
    data = noise()
    data.check()
    assert data.classes is None


def test_an_evaluation_needs_no_training_shards(noise) -> None:
    for path in Path(noise().source.root).glob("train-*"):
        path.unlink()
    noise().check(["val"])
    with pytest.raises(DataError, match="no shard"):
        noise().check()


def test_a_missing_index_is_found_before_anything_is_built(noise) -> None:
    data = noise()
    index_path(Path(data.source.root) / "val-00000.tar").unlink()
    with pytest.raises(DataError, match="iwin shards index"):
        data.check()


def test_folders_without_a_root_say_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"data.root=/path.*train/<class>/<image>.*data.val_fraction=0.2"):
        folder(None).check()


def test_split_folders(split_folders: Path) -> None:
    data = folder(split_folders)
    data.check()
    assert [data.num_classes, data.classes] == [3, ["ant", "bee", "cat"]]
    assert [len(data.train_dataset), len(data.val_dataset)] == [15, 15]
    shutil.rmtree(split_folders / "train")
    with pytest.raises(DataError, match=r"there is no .*/train \(data.train=train\)"):
        folder(split_folders).check()
    folder(split_folders).check(["val"])


def test_a_validation_class_is_numbered_by_the_training_folders(split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val" / "ant")
    data = folder(split_folders)
    data.check()
    assert np.unique(data.val_dataset.labels).tolist() == [1, 2]


def test_a_made_split_is_disjoint_stratified_and_the_same_again(class_folders: Path) -> None:
    def keys(split: str) -> list[str]:
        data = folder(class_folders, val_fraction=0.4)
        data.check()
        dataset = data.train_dataset if split == "train" else data.val_dataset
        return [dataset.key(i) for i in range(len(dataset))]

    assert keys("train") == keys("train")
    assert len(set(keys("train")) | set(keys("val"))) == 15
    assert sorted(key[:3] for key in keys("val")) == ["ant"] * 2 + ["bee"] * 2 + ["cat"] * 2


def test_a_split_of_what_is_split_is_refused(split_folders: Path) -> None:
    with pytest.raises(ConfigError, match="is split already into train and val"):
        folder(split_folders, val_fraction=0.2).check()


def test_folders_and_shards_make_batches_alike(class_folders: Path) -> None:
    data = folder(class_folders, val_fraction=0.4, image_size=8)
    dataset = data.val_dataset
    batch = dataset.__getitems__(next(iter(EvalSampler(6, batch_size=4, world=1, rank=0))))
    assert batch.images.shape == (4, 3, 8, 8)
    greys = [int(Path(dataset.key(i)).stem[-1]) + 40 * int(dataset.labels[i]) for i in range(4)]
    assert batch.images[:, 0, 0, 0].tolist() == greys
    assert batch.targets.tolist() == dataset.labels[:4].tolist()


@pytest.fixture
def shards(class_folders: Path, tmp_path: Path) -> Path:
    """The 15 images of the folders as training shards of 4, without a validation split."""
    files = find_images(class_folders)
    samples = [Sample(f"k{i:02d}", files.read(i), "png", int(files.labels[i])) for i in range(15)]
    with DataSetWriter(tmp_path / "shards", classes=files.classes, about={}) as writer:
        writer.write_split("train", samples, samples_per_shard=4)
    return tmp_path / "shards"


def in22k(root: Path, **changes: Any) -> ImageDataModule:
    small = {"root": str(root), "num_classes": 3, "class_list": None, "image_size": 8, "num_workers": 0}
    return ImageDataModule(**data_keys("in22k") | small | changes)


@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_shards_without_a_validation_split_get_one(shards: Path, shuffle: str) -> None:
    data = in22k(shards, val_fraction=0.4, shuffle=shuffle, open_shards=2)
    data.check()
    train, val = data.train_dataset, data.val_dataset
    keys = [[dataset.key(i) for i in range(len(dataset))] for dataset in (train, val)]
    assert sorted(keys[0] + keys[1]) == keys_of(shards)
    assert np.bincount(val.labels).tolist() == [2, 2, 2] == val.class_counts().tolist()
    assert [dataset.label(i) for dataset in (train, val) for i in range(len(dataset))] == [
        *train.labels.tolist(),
        *val.labels.tolist(),
    ]
    assert sorted(data._shuffle.order(0, 0, 0).tolist()) == list(range(9))
    assert data.source.place.whole == (shuffle == "block")
    again = in22k(shards, val_fraction=0.4).val_dataset
    assert [again.key(i) for i in range(len(again))] == keys[1]


def keys_of(shards: Path) -> list[str]:
    dataset = in22k(shards).train_dataset
    return sorted(dataset.key(i) for i in range(len(dataset)))


def test_classes_in_another_order_than_released_heads_have_are_refused(shards: Path) -> None:
    with pytest.raises(DataError, match=r"class 0 is ant, and n00004475 in imagenet-22k.*data.class_list to null"):
        in22k(shards, class_list="imagenet-22k").check(["train"])


def test_the_lists_of_classes_are_those_of_the_data_sets() -> None:
    counts = {"imagenet-1k": 1000, "imagenet-22k": 21841}
    for name in CLASS_LISTS:
        synsets = ImageNetInfo(name).label_names()
        assert len(synsets) == counts[name]
        assert synsets == sorted(set(synsets))
    assert [data_keys(name)["class_list"] for name in ("in1k", "in22k")] == list(CLASS_LISTS)


def test_half_a_data_set_is_not_trained_on(shards: Path) -> None:
    (shards / "manifest.json").rename(shards / "unfinished.json")
    with pytest.raises(DataError, match=r"is half a data set: iwin shards write was stopped there"):
        in22k(shards).check()
