"""A csv of images: columns, labels, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from iwin.data.listed import find_listed
from iwin.errors import DataError


def listed(folders: Path, *lines: str) -> Path:
    path = folders / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_names_are_numbered_sorted_and_paths_are_relative_to_the_csv(class_folders: Path) -> None:
    images = find_listed(listed(class_folders, "path,label", "cat/cat.0.png,zebra", "ant/ant.1.png,ape"))["all"]
    assert images.classes == ["ape", "zebra"]
    assert images.labels.tolist() == [1, 0]
    assert images.labels.dtype == np.int32
    assert images.name(1) == "ant/ant.1.png"
    assert images.read(1) == (class_folders / "ant" / "ant.1.png").read_bytes()


def test_a_header_may_be_left_out_or_order_the_columns(class_folders: Path) -> None:
    plain = find_listed(
        listed(class_folders, "ant/ant.0.png,0,train", '"bee/bee.0.png",1,train', "cat/cat.1.png,1,val")
    )
    other = find_listed(
        listed(
            class_folders, "Split,Label,Path", "train,0,ant/ant.0.png", "train,1,bee/bee.0.png", "val,1,cat/cat.1.png"
        )
    )
    for splits in (plain, other):
        assert list(splits) == ["train", "val"]
        assert [splits["train"].name(i) for i in range(2)] == ["ant/ant.0.png", "bee/bee.0.png"]
        assert splits["val"].labels.tolist() == [1]
        assert splits["val"].classes == ["0", "1"]


def test_integers_are_the_labels_themselves(class_folders: Path) -> None:
    names = [f"cat/cat.{number}.png,{label}" for number, label in enumerate([2, 0, 1, 2, 1, 0])]
    assert find_listed(listed(class_folders, *names))["all"].labels.tolist() == [2, 0, 1, 2, 1, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["cat/cat.0.png,0", "cat/cat.9.png,0"], r"line 2: there is no file .*cat\.9\.png"),
        (["cat/cat.0.png,0", "../folders/cat/cat.1.png,0"], "line 2: .* must be relative to"),
        (["/etc/image.png,0"], "line 1: /etc/image.png must be relative to"),
        (["cat/cat.0.png,0", "cat/cat.0.png,1"], "line 2: cat/cat.0.png is listed in line 1 already"),
        (["file,kind", "cat/cat.0.png,x"], "line 1: file is not an image"),
        (["cat/cat.0.png,0", "cat/cat.1.png,-1"], "line 2: label -1 does not lie between 0 and 1"),
        (["cat/cat.0.png,0", "cat/cat.1.png,4000000000"], "line 2: label 4000000000 does not lie"),
        (["cat/cat.0.png,0", "cat/cat.1.png,0", "cat/cat.2.png,2"], r"1 of 3 classes .*first: 1\)"),
        (["cat/cat.0.png,0", "cat/cat.1.png,dog"], "'dog' in line 2 is a name, and '0' in line 1 is a number"),
        (["cat/cat.0.png,0", "cat/cat.1.png,1", "cat/cat.2.png"], "line 3: .* is not path,label"),
        (["cat/cat.0.png,0", "cat/cat.1.png,"], "line 2: .* is not path,label"),
        (["cat/cat.0.png,0,train", "cat/cat.1.png,0,vall"], "line 2: split is 'vall': did you mean val"),
        (["cat/cat.0.png,0,train"], "lists no image of split val"),
        (["cat/cat.0.png,0,val"], "1 of 1 classes have no image for training"),
        (["cat/cat.0.png"], "has the columns"),
        (["path,label,fold", "cat/cat.0.png,0,1"], "has the columns"),
        (["path,label"], "lists no images"),
        (['cat/cat.0.png,"0'], "cannot be read as csv"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused(class_folders: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_listed(listed(class_folders, *lines))


def test_a_csv_that_is_empty_or_no_text_is_refused(class_folders: Path) -> None:
    path = class_folders / "list.csv"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"list.csv (lists no images|has the columns)"):
        find_listed(path)
    path.write_bytes(b"caf\xe9.png,0\n")
    with pytest.raises(DataError, match="cannot be read as csv"):
        find_listed(path)
