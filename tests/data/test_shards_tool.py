from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shards_command import content, iwin
from tiny_images import encoded

from iwin.data.foreign import splits_by_name
from iwin.data.index import index_path
from iwin.data.manifest import read_manifest
from iwin.data.shards import ShardDataset, ShardFolder
from iwin.errors import ConfigError, DataError


def test_class_folders_become_shards_of_the_same_bytes(class_folders: Path, tmp_path: Path) -> None:
    assert (
        iwin("shards", "write", class_folders, tmp_path / "set", "--val-fraction", 0.4, "--samples-per-shard", 4) == 0
    )
    train, val = content(tmp_path / "set", "train"), content(tmp_path / "set", "val")
    assert [len(train), len(val)] == [9, 6]
    files = {path.read_bytes(): ["ant", "bee", "cat"].index(path.parent.name) for path in class_folders.rglob("*.png")}
    assert train | val == files
    manifest = read_manifest(tmp_path / "set")
    assert manifest is not None
    assert manifest["classes"] == ["ant", "bee", "cat"]


def test_samples_are_shuffled_by_the_seed(class_folders: Path, tmp_path: Path) -> None:
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        iwin("shards", "write", class_folders, tmp_path / name, "--val-fraction", 0.1, "--seed", seed)
        data = ShardDataset(ShardFolder(tmp_path / name), "train-*.tar", None, None)
        orders.append(data.labels.tolist())
        assert orders[-1] != sorted(orders[-1])
        assert "00000000-" in data.key(0)
    assert orders[0] == orders[1] != orders[2]


def test_split_folders_keep_their_split(class_folders: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(class_folders, tmp_path / "split" / split)
    shutil.rmtree(tmp_path / "split" / "val" / "ant")
    iwin("shards", "write", tmp_path / "split", tmp_path / "set")
    assert np.bincount(list(content(tmp_path / "set", "val").values())).tolist() == [0, 5, 6]
    with pytest.raises(ConfigError, match="leave out --val-fraction"):
        iwin("shards", "write", tmp_path / "split", tmp_path / "other", "--val-fraction", 0.5)


def test_folders_without_a_split_need_the_fraction(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--val-fraction"):
        iwin("shards", "write", class_folders, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_foreign_shards_are_indexed_in_place(class_folders: Path, tmp_path: Path) -> None:
    iwin("shards", "write", class_folders, tmp_path / "set", "--val-fraction", 0.4, "--samples-per-shard", 4)
    indexes = {path: path.read_bytes() for path in (tmp_path / "set").glob("*.idx")}
    for path in indexes:
        path.unlink()
    assert iwin("shards", "index", tmp_path / "set", "--num-classes", 3) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "set").glob("*.idx")} == indexes
    with pytest.raises(DataError, match="must lie below 2"):
        iwin("shards", "index", tmp_path / "set", "--num-classes", 2)


def test_foreign_shards_get_a_manifest_with_the_names_of_their_classes(class_folders: Path, tmp_path: Path) -> None:
    root, names = tmp_path / "set", tmp_path / "names.txt"
    iwin("shards", "write", class_folders, root, "--val-fraction", 0.4, "--samples-per-shard", 4)
    ours = read_manifest(root)
    assert ours is not None
    (root / "manifest.json").unlink()
    for path in root.glob("*.idx"):
        path.unlink()
    names.write_text("ant\nbee\ncat\n")
    assert iwin("shards", "index", root, "--manifest", "--classes", names) == 0
    made = read_manifest(root)
    assert made is not None
    assert (made["classes"], made["splits"]) == (ours["classes"], ours["splits"])
    assert iwin("shards", "check", root, "--deep") == 0
    before = (root / "manifest.json").read_bytes()
    with pytest.raises(DataError, match=r"manifest.json is there already, and is not overwritten"):
        iwin("shards", "index", root, "--manifest", "--classes", names)
    assert (root / "manifest.json").read_bytes() == before
    assert iwin("shards", "index", root) == 0


def test_a_manifest_needs_the_classes_and_the_splits(class_folders: Path, tmp_path: Path) -> None:
    root, names = tmp_path / "set", tmp_path / "names.txt"
    iwin("shards", "write", class_folders, root, "--val-fraction", 0.4)
    (root / "manifest.json").unlink()
    names.write_text("ant\nbee\n")
    with pytest.raises(ConfigError, match="belong together"):
        iwin("shards", "index", root, "--manifest")
    with pytest.raises(ConfigError, match="belong together"):
        iwin("shards", "index", root, "--classes", names)
    with pytest.raises(ConfigError, match="leave out --num-classes"):
        iwin("shards", "index", root, "--manifest", "--classes", names, "--num-classes", 2)
    with pytest.raises(DataError, match="must lie below 2"):
        iwin("shards", "index", root, "--manifest", "--classes", names)
    for text, message in (("", "is empty"), ("ant\n\ncat\n", "line 2 is empty")):
        names.write_text(text)
        with pytest.raises(DataError, match=message):
            iwin("shards", "index", root, "--manifest", "--classes", names)
    names.write_text("ant\nbee\ncat\n")
    (root / "unfinished.json").touch()
    with pytest.raises(DataError, match="is not written to its end"):
        iwin("shards", "index", root, "--manifest", "--classes", names)
    (root / "unfinished.json").unlink()
    (root / "val-00000.tar").rename(root / "validation.tar")
    with pytest.raises(DataError, match=r"validation.tar does not tell its split"):
        iwin("shards", "index", root, "--manifest", "--classes", names)
    assert not (root / "manifest.json").exists()


def test_the_split_of_a_shard_is_its_name_up_to_the_number() -> None:
    names = ["train-00.tar", "train-01.tar", "in1k-val-3-of-9.tar", "imagenet1k-train-0012.tar"]
    assert splits_by_name([Path(name) for name in names]) == {
        "train": [Path("train-00.tar"), Path("train-01.tar")],
        "in1k-val": [Path("in1k-val-3-of-9.tar")],
        "imagenet1k-train": [Path("imagenet1k-train-0012.tar")],
    }


def test_indexing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no .tar file"):
        iwin("shards", "index", tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        iwin("shards", "index", tmp_path / "nowhere")


def test_a_shard_of_another_tool_needs_no_index_to_be_found(class_folders: Path, tmp_path: Path) -> None:
    iwin("shards", "write", class_folders, tmp_path / "set", "--val-fraction", 0.4)
    tar = tmp_path / "set" / "train-00000.tar"
    index_path(tar).unlink()
    with pytest.raises(DataError, match=f"iwin shards index {tmp_path / 'set'}"):
        ShardDataset(ShardFolder(tmp_path / "set"), "train-*.tar", None, None)


def test_a_csv_is_written_with_its_own_split_or_a_fraction(class_folders: Path, tmp_path: Path) -> None:
    files = sorted(class_folders.rglob("*.png"))
    rows = [f"{path.relative_to(class_folders)},{path.parent.name}" for path in files]
    (class_folders / "plain.csv").write_text("\n".join(["path,label", *rows]))
    (class_folders / "split.csv").write_text("\n".join(f"{row},{'val' if '.1' in row else 'train'}" for row in rows))
    iwin("shards", "write", class_folders / "split.csv", tmp_path / "a")
    iwin("shards", "write", class_folders / "plain.csv", tmp_path / "b", "--val-fraction", 0.4)
    labels = {path.read_bytes(): ["ant", "bee", "cat"].index(path.parent.name) for path in files}
    for name, count in (("a", 3), ("b", 6)):
        val = content(tmp_path / name, "val")
        assert len(val) == count
        assert content(tmp_path / name, "train") | val == labels
    with pytest.raises(ConfigError, match="is split already: leave out --val-fraction"):
        iwin("shards", "write", class_folders / "split.csv", tmp_path / "c", "--val-fraction", 0.4)
    with pytest.raises(ConfigError, match="has no column split"):
        iwin("shards", "write", class_folders / "plain.csv", tmp_path / "c")


def test_an_option_of_another_layout_is_refused(class_folders: Path, tmp_path: Path) -> None:
    for option in ("--val-labels", "--synset-order"):
        with pytest.raises(ConfigError, match=f"class folders without a split: leave out {option}"):
            iwin("shards", "write", class_folders, tmp_path / "set", option, tmp_path / "list.txt")


def test_what_cannot_be_a_source_is_refused_with_what_can(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not there.*\n(.*\n)*.*--val-labels"):
        iwin("shards", "write", tmp_path / "nowhere", tmp_path / "set")
    with pytest.raises(DataError, match=r"ant\.0\.png is neither a folder nor"):
        iwin("shards", "write", class_folders / "ant" / "ant.0.png", tmp_path / "set")


def test_a_target_in_use_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train-00000.tar").touch()
    with pytest.raises(DataError, match="already holds a data set"):
        iwin("shards", "write", tmp_path / "nowhere", tmp_path / "set")


def test_images_are_made_smaller_and_the_manifest_tells_it(tmp_path: Path) -> None:
    sizes = {"wide": (90, 30), "tall": (30, 60), "small": (15, 99)}
    for name, size in sizes.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            data = encoded(Image.new("RGB", size, (9 * number, 99, 200)), "JPEG")
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(data)
    options = ("--val-fraction", 0.5, "--resize", 20, "--quality", 80)
    iwin("shards", "write", tmp_path / "photos", tmp_path / "set", *options)
    classes = sorted(sizes)
    small = {(tmp_path / "photos" / "small" / f"{number}.jpg").read_bytes() for number in range(2)}
    for split in ("train", "val"):
        data = ShardDataset(ShardFolder(tmp_path / "set"), f"{split}-*.tar", None, None)
        stored = {classes[label]: data.read(i) for i, label in enumerate(data.labels.tolist())}
        assert stored["small"] in small
        assert [Image.open(io.BytesIO(stored[name])).size for name in ("wide", "tall")] == [(60, 20), (20, 40)]
    manifest = read_manifest(tmp_path / "set")
    assert manifest is not None
    assert [manifest["about"][name] for name in ("resize", "quality", "seed", "shard_size")] == [20, 80, 0, 256]
    assert "pillow" in manifest["about"]["encoders"]
    assert "jobs" not in manifest["about"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--quality", 90), "--quality 90 is of what --resize makes"),
        (("--resize", 0), "--resize must be a whole number of at least 1"),
        (("--resize", 9, "--quality", 0), "--quality must be a whole number of at least 1"),
        (("--resize", 9, "--quality", 101), "--quality is 101"),
        (("--jobs", 0), "--jobs must be a whole number of at least 1"),
        (("--shard-size", 0), "--shard-size is 0"),
        (("--samples-per-shard", 0), "--samples-per-shard must be"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_made(
    class_folders: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        iwin("shards", "write", class_folders, tmp_path / "set", "--val-fraction", 0.4, *options)
    assert not (tmp_path / "set").exists()
