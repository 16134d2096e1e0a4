"""ImageNet's archives as they are distributed, in small: what is found in them, and what is refused."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from shards_command import content, iwin
from tiny_archives import SYNSETS, by_synset, make_tar, tar_bytes
from tiny_images import square

from iwin.data.archives import find_synset_images, synset_tars_in
from iwin.data.manifest import read_manifest
from iwin.errors import ConfigError, DataError

FIRST, SECOND, THIRD = SYNSETS
VAL = [SECOND, FIRST, THIRD, FIRST]
ILSVRC_ORDER = [THIRD, FIRST, SECOND]


def val_image(number: int) -> bytes:
    return square(200 + number)


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    """The two archives of ImageNet-1K with 3 classes, out of order as members of a tar may be; lists beside them."""
    root = tmp_path / "in1k"
    root.mkdir()
    outer = [(f"{synset}.tar", tar_bytes(members)) for synset, members in reversed(by_synset().items())]
    make_tar(root / "ILSVRC2012_img_train.tar", outer)
    flat = [(f"ILSVRC2012_val_{number:08d}.JPEG", val_image(number)) for number in (3, 1, 4, 2)]
    make_tar(root / "ILSVRC2012_img_val.tar", flat)
    (tmp_path / "synsets.txt").write_text("\n".join(VAL) + "\n")
    (tmp_path / "ids.txt").write_text("".join(f"{ILSVRC_ORDER.index(synset) + 1}\n" for synset in VAL))
    (tmp_path / "order.txt").write_text("\n".join(ILSVRC_ORDER) + "\n")
    return root


def whole_train() -> dict[bytes, int]:
    return {body: SYNSETS.index(synset) for synset, members in by_synset().items() for _, body in members}


def test_the_archives_of_1k_are_written_with_sorted_synsets(
    ilsvrc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert iwin("shards", "write", ilsvrc, tmp_path / "set", "--val-labels", tmp_path / "synsets.txt") == 0
    assert "the archives of ImageNet-1K" in capsys.readouterr().out
    assert content(tmp_path / "set", "train") == whole_train()
    assert content(tmp_path / "set", "val") == {val_image(n + 1): SYNSETS.index(s) for n, s in enumerate(VAL)}
    manifest = read_manifest(tmp_path / "set")
    assert manifest is not None
    assert manifest["classes"] == SYNSETS
    assert [manifest["splits"][split]["samples"] for split in ("train", "val")] == [9, 4]
    assert not list(ilsvrc.rglob("*.JPEG"))


def test_ids_in_the_order_of_the_kit_give_the_labels_of_the_synsets(ilsvrc: Path, tmp_path: Path) -> None:
    iwin("shards", "write", ilsvrc, tmp_path / "a", "--val-labels", tmp_path / "synsets.txt")
    options = ("--val-labels", tmp_path / "ids.txt", "--synset-order", tmp_path / "order.txt")
    iwin("shards", "write", ilsvrc, tmp_path / "b", *options)
    assert (tmp_path / "a" / "val-00000.tar").read_bytes() == (tmp_path / "b" / "val-00000.tar").read_bytes()


def test_ids_without_their_order_are_refused_with_the_reason(ilsvrc: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"order of its own .*--synset-order FILE"):
        iwin("shards", "write", ilsvrc, tmp_path / "set", "--val-labels", tmp_path / "ids.txt")
    assert not (tmp_path / "set").exists()


def test_labels_must_be_given_and_a_useless_order_must_not(ilsvrc: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--val-labels FILE"):
        iwin("shards", "write", ilsvrc, tmp_path / "set")
    options = ("--val-labels", tmp_path / "synsets.txt", "--synset-order", tmp_path / "order.txt")
    with pytest.raises(ConfigError, match="leave it out"):
        iwin("shards", "write", ilsvrc, tmp_path / "set", *options)
    options = ("--val-labels", tmp_path / "synsets.txt", "--val-fraction", 0.5)
    with pytest.raises(ConfigError, match="leave out --val-fraction"):
        iwin("shards", "write", ilsvrc, tmp_path / "set", *options)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (VAL[:3], "has 3 lines, and .*ILSVRC2012_img_val.tar holds 4 images"),
        ([*VAL[:3], "n01440765"], "line 4: ILSVRC2012_img_train.tar has no n01440765: did you mean n01440764"),
        ([*VAL[:3], "2"], "line 4: '2' is not a synset"),
        (["", *VAL[:3]], "line 1: '' is not a synset"),
        ([], "is empty"),
    ],
)
def test_a_list_of_labels_that_does_not_fit_is_refused(
    ilsvrc: Path, tmp_path: Path, lines: list[str], message: str
) -> None:
    (tmp_path / "bad.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        iwin("shards", "write", ilsvrc, tmp_path / "set", "--val-labels", tmp_path / "bad.txt")


@pytest.mark.parametrize(
    ("ids", "order", "message"),
    [
        ("0 1 2 1", ILSVRC_ORDER, "line 1: 0 is no ILSVRC id: they go from 1 to 3"),
        ("1 1 2 4", ILSVRC_ORDER, "line 4: 4 is no ILSVRC id"),
        ("1 1 2 3", SYNSETS, "lists the synsets sorted"),
        ("1 1 2 3", ILSVRC_ORDER[:2], "does not list the 3 synsets"),
        ("1 1 2 3", [*ILSVRC_ORDER[:2], FIRST], "does not list the 3 synsets"),
    ],
)
def test_ids_and_an_order_that_do_not_fit_are_refused(
    ilsvrc: Path, tmp_path: Path, ids: str, order: list[str], message: str
) -> None:
    (tmp_path / "bad.txt").write_text("\n".join(ids.split()))
    (tmp_path / "bad_order.txt").write_text("\n".join(order))
    options = ("--val-labels", tmp_path / "bad.txt", "--synset-order", tmp_path / "bad_order.txt")
    with pytest.raises(DataError, match=message):
        iwin("shards", "write", ilsvrc, tmp_path / "set", *options)


def test_a_gap_in_the_validation_images_is_refused(ilsvrc: Path, tmp_path: Path) -> None:
    flat = [(f"ILSVRC2012_val_{number:08d}.JPEG", val_image(number)) for number in (1, 2, 4, 5)]
    make_tar(ilsvrc / "ILSVRC2012_img_val.tar", flat)
    with pytest.raises(DataError, match="image number 3 is not there"):
        iwin("shards", "write", ilsvrc, tmp_path / "set", "--val-labels", tmp_path / "synsets.txt")


def test_one_of_the_two_archives_is_not_enough(ilsvrc: Path, tmp_path: Path) -> None:
    (ilsvrc / "ILSVRC2012_img_val.tar").unlink()
    with pytest.raises(DataError, match=r"has no ILSVRC2012_img_val.tar"):
        iwin("shards", "write", ilsvrc, tmp_path / "set")


def test_a_folder_of_synset_archives_and_one_archive_of_them_give_the_same_shards(tmp_path: Path) -> None:
    (tmp_path / "in22k").mkdir()
    for synset, members in by_synset().items():
        make_tar(tmp_path / "in22k" / f"{synset}.tar", members)
    outer = [(f"fall11/{synset}.tar", tar_bytes(members)) for synset, members in reversed(by_synset().items())]
    make_tar(tmp_path / "fall11_whole.tar", outer)
    sources = {"a": tmp_path / "in22k", "b": tmp_path / "fall11_whole.tar"}
    for name, source in sources.items():
        iwin("shards", "write", source, tmp_path / name, "--val-fraction", 0.3, "--seed", 3)
    train, val = content(tmp_path / "a", "train"), content(tmp_path / "a", "val")
    assert [len(train), len(val)] == [6, 3]
    assert train | val == whole_train()
    for shard in ("train-00000.tar", "val-00000.tar"):
        assert (tmp_path / "a" / shard).read_bytes() == (tmp_path / "b" / shard).read_bytes()


def test_22k_without_a_fraction_is_all_for_training(tmp_path: Path) -> None:
    make_tar(tmp_path / "whole.tar", [(f"{synset}.tar", tar_bytes(members)) for synset, members in by_synset().items()])
    iwin("shards", "write", tmp_path / "whole.tar", tmp_path / "set")
    manifest = read_manifest(tmp_path / "set")
    assert manifest is not None
    assert list(manifest["splits"]) == ["train"]
    assert content(tmp_path / "set", "train") == whole_train()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([(f"{SECOND}_1.JPEG", b"x")], f"{FIRST}.tar: '{SECOND}_1.JPEG' is not an image of {FIRST}"),
        ([(f"{FIRST}_1.txt", b"x")], "is not an image of"),
        ([("../../evil.JPEG", b"x")], r"'../../evil.JPEG' is not an image of"),
        ([(f"{FIRST}_1.JPEG", b"")], f"{FIRST}.tar: '{FIRST}_1.JPEG' is empty"),
        ([(f"{FIRST}_1.JPEG", b"x"), (f"again/{FIRST}_1.JPEG", b"y")], "comes twice"),
        ([], "holds no images"),
    ],
)
def test_a_member_that_is_not_expected_is_named_with_its_archives(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    tar = make_tar(tmp_path / "whole.tar", [(f"{FIRST}.tar", tar_bytes(members))])
    with pytest.raises(DataError, match=rf"whole.tar: n.*{message.removeprefix(FIRST)}"):
        find_synset_images(synset_tars_in(tar))


@pytest.mark.parametrize("name", ["README", "n0144.tar", f"{FIRST}.tar.gz", f"{FIRST}_1.JPEG"])
def test_what_is_no_archive_of_a_synset_is_refused(tmp_path: Path, name: str) -> None:
    tar = make_tar(tmp_path / "whole.tar", [(name, b"x")])
    with pytest.raises(DataError, match=f"whole.tar: '{name}' is not the archive of a synset"):
        synset_tars_in(tar)
    (tmp_path / "folder").mkdir()
    make_tar(tmp_path / "folder" / f"{SECOND}.tar", by_synset()[SECOND])
    (tmp_path / "folder" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"folder/{name} is not the archive of a synset"):
        iwin("shards", "write", tmp_path / "folder", tmp_path / "set")


def test_a_synset_that_comes_twice_is_refused(tmp_path: Path) -> None:
    inner = tar_bytes(by_synset()[FIRST])
    with pytest.raises(DataError, match=f"{FIRST} comes twice"):
        synset_tars_in(make_tar(tmp_path / "whole.tar", [(f"{FIRST}.tar", inner), (f"more/{FIRST}.tar", inner)]))


def test_an_inner_archive_cut_anywhere_is_refused(tmp_path: Path) -> None:
    inner = tar_bytes(by_synset()[FIRST])
    end = len(inner.rstrip(b"\0"))
    for size in range(512, end, 512):
        tar = make_tar(tmp_path / "whole.tar", [(f"{FIRST}.tar", inner[:size]), (f"{SECOND}.tar", inner)])
        with pytest.raises(DataError, match=rf"whole.tar: {FIRST}.tar: at byte \d+"):
            find_synset_images(synset_tars_in(tar))


def test_a_link_in_an_inner_archive_is_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / f"{FIRST}.tar", by_synset()[FIRST])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo(f"{FIRST}_9.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="is a link"):
        find_synset_images({FIRST: (path, None)})


def test_an_archive_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = make_tar(tmp_path / f"{FIRST}.tar", by_synset()[FIRST])
    images = find_synset_images({FIRST: (path, None)})
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=rf"{FIRST}.tar ended inside {FIRST}_2.JPEG"):
        images.read(1)


def test_archives_beside_folders_are_not_guessed_at(ilsvrc: Path, tmp_path: Path) -> None:
    (ilsvrc / "train").mkdir()
    with pytest.raises(DataError, match="it is not clear which"):
        iwin("shards", "write", ilsvrc, tmp_path / "set", "--val-labels", tmp_path / "synsets.txt")


def test_the_test_archive_and_the_kit_may_lie_beside_those_of_1k(ilsvrc: Path, tmp_path: Path) -> None:
    (ilsvrc / "ILSVRC2012_devkit_t12").mkdir()
    (ilsvrc / "ILSVRC2012_img_test.tar").write_bytes(b"not looked at")
    assert iwin("shards", "write", ilsvrc, tmp_path / "set", "--val-labels", tmp_path / "synsets.txt") == 0
    assert len(content(tmp_path / "set", "train")) == 9
