"""ImageNet-1K from the archives as they are distributed: a tar of synset tars, a flat tar, and a list of labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from iwin.data.archives import SYNSET, ArchivedImages, find_flat_images, find_synset_images, synset_tars_in
from iwin.errors import ConfigError, DataError, near_names

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
VAL_NAME = re.compile(r"ILSVRC2012_val_[0-9]{8}\.JPEG")
NUMBER = re.compile(r"[0-9]+")


def find_ilsvrc(root: Path, val_labels: Path | None, synset_order: Path | None) -> dict[str, ArchivedImages]:
    """The images of both splits; the classes are the sorted synsets of the training archive.

    val_labels: a line for every validation image, in the order of their numbers: a synset, or an ILSVRC id from 1.
    synset_order: the synsets in the order of the ILSVRC ids, a line each; for ids alone.

    Raises:
        ConfigError: no val_labels; ids without synset_order, or the reverse.
        DataError: an archive or a list is damaged, or they do not belong together.
    """
    if val_labels is None:
        raise ConfigError(
            f"{VAL_TAR} holds images without labels: give their list, --val-labels FILE, a line for every image in "
            "the order of their numbers (a synset, or an ILSVRC id with --synset-order)."
        )
    lines = _lines(val_labels)
    numbered = all(NUMBER.fullmatch(line) for line in lines)
    if numbered and synset_order is None:
        raise ConfigError(
            f"{val_labels} holds numbers, and ILSVRC ids do not count the sorted synsets: the development kit has an "
            "order of its own (id 1 is n02119789; the first sorted synset is n01440764). Read as sorted, nearly "
            "every label would be wrong. Give the kit's order: --synset-order FILE, a synset a line from id 1."
        )
    if not numbered and synset_order is not None:
        raise ConfigError(f"{val_labels} does not hold ILSVRC ids alone, for which --synset-order is: leave it out.")
    train = find_synset_images(synset_tars_in(root / TRAIN_TAR))
    synsets = lines if synset_order is None else _synsets_of(lines, val_labels, synset_order, train.classes)
    val = find_flat_images(root / VAL_TAR, VAL_NAME, "ILSVRC2012_val_00000001.JPEG")
    numbers = [int(val.names[index][15:23]) for index in range(len(val.names))]
    gap = next((place for place, number in enumerate(numbers, start=1) if number != place), None)
    if gap is not None:
        raise DataError(f"{root / VAL_TAR}: image number {gap} is not there. Fetch the archive again.")
    if len(synsets) != len(numbers):
        raise DataError(f"{val_labels} has {len(synsets)} lines, and {root / VAL_TAR} holds {len(numbers)} images.")
    labels = _labels_of(synsets, val_labels, train.classes)
    return {"train": train, "val": val._replace(labels=labels, classes=train.classes)}


def _lines(path: Path) -> list[str]:
    """The lines of a text file without the empty ones at its end."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path} is empty.")
    return lines


def _synsets_of(ids: list[str], val_labels: Path, synset_order: Path, classes: list[str]) -> list[str]:
    order = _lines(synset_order)
    if sorted(order) != classes:
        raise DataError(
            f"{synset_order} does not list the {len(classes)} synsets of {TRAIN_TAR}, each once and alone on its "
            f"line: it has {len(order)} lines, {len(set(order) & set(classes))} of these synsets among them."
        )
    if order == classes:
        raise DataError(
            f"{synset_order} lists the synsets sorted, which is not the order of the ILSVRC ids (id 1 is n02119789). "
            "Take the order from the development kit."
        )
    for line, number in enumerate(ids, start=1):
        if not 1 <= int(number) <= len(order):
            raise DataError(f"{val_labels}, line {line}: {number} is no ILSVRC id: they go from 1 to {len(order)}.")
    return [order[int(number) - 1] for number in ids]


def _labels_of(synsets: list[str], val_labels: Path, classes: list[str]) -> np.ndarray:
    by_name = {name: label for label, name in enumerate(classes)}
    for line, synset in enumerate(synsets, start=1):
        if not SYNSET.fullmatch(synset):
            raise DataError(f"{val_labels}, line {line}: {synset!r} is not a synset, as n01440764.")
        if synset not in by_name:
            raise DataError(f"{val_labels}, line {line}: {TRAIN_TAR} has no {synset}: {near_names(synset, classes)}")
    return np.array([by_name[synset] for synset in synsets], dtype=np.int32)
