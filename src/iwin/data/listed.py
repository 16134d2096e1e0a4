"""Images that a csv lists: `path,label` and perhaps `split` in every row, with or without a header."""

from __future__ import annotations

import csv
import re
from pathlib import Path, PurePosixPath

import numpy as np

from iwin.data.folder import ImageFiles, extension_of
from iwin.data.index import IMAGE_EXTENSIONS
from iwin.data.strings import PackedStrings
from iwin.errors import DataError, near_names

COLUMNS = ["path", "label", "split"]
SPLITS = ("train", "val")
INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
Row = tuple[int, list[str]]  # the number of its line, and its fields in the order of COLUMNS


def find_listed(path: Path) -> dict[str, ImageFiles]:
    """The images of the csv `path` by split, or all of them as "all" where it has no column `split`.

    A header names the columns, in any order; without one they are path, label and, where there is a third, split
    (train or val). Paths are relative to the folder of the csv. Labels are all integers from 0, each with an image,
    or all names, whose sorted order numbers them.

    Raises:
        DataError: with the line, for a row that is none of this, a file that is missing, outside of the folder, no
            image or listed twice, and for a class that has no image for training.
    """
    rows = _rows(path)
    labels, classes = _labels(path, rows)
    seen: dict[str, int] = {}
    for line, (name, *_) in rows:
        before = seen.setdefault(name, line)
        if before != line:
            raise DataError(f"{path}, line {line}: {name} is listed in line {before} already.")
        _check_file(path, line, name)
    images = ImageFiles(path.parent, PackedStrings.pack(fields[0] for _, fields in rows), labels, classes)
    if len(rows[0][1]) == 2:
        splits = {"all": images}
    else:
        parts = np.array([fields[2] for _, fields in rows])
        splits = {split: images.select(np.flatnonzero(parts == split)) for split in SPLITS}
    first = next(iter(splits.values()))
    lacking = sorted(set(range(len(classes))) - set(first.labels.tolist()))
    if lacking:
        raise DataError(
            f"{path}: {len(lacking)} of {len(classes)} classes have no image for training (first: "
            f"{classes[lacking[0]]}). Labels go from 0 without a gap."
        )
    if not all(len(one.labels) for one in splits.values()):
        raise DataError(f"{path} lists no image of split val. Leave the column out for --val-fraction.")
    return splits


def _rows(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [field.strip() for field in fields]) for fields in reader if fields]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as csv: {error}.") from error
    columns = COLUMNS[: len(rows[0][1])] if rows else []
    header = [name.lower() for name in rows[0][1]] if rows else []
    if set(header) >= {"path", "label"}:
        columns, rows = header, rows[1:]
    if sorted(columns) not in (sorted(COLUMNS), sorted(COLUMNS[:2])):
        raise DataError(f"{path} has the columns {columns}: they are path,label or path,label,split.")
    if not rows:
        raise DataError(f"{path} lists no images.")
    order = [columns.index(name) for name in COLUMNS if name in columns]
    for line, fields in rows:
        if len(fields) != len(columns) or not all(fields):
            raise DataError(f"{path}, line {line}: {fields} is not {','.join(columns)}, each with a value.")
    ordered = [(line, [fields[column] for column in order]) for line, fields in rows]
    for line, (_, _, *split) in ordered:
        if split and split[0] not in SPLITS:
            raise DataError(f"{path}, line {line}: split is {split[0]!r}: {near_names(split[0], SPLITS)}")
    return ordered


def _labels(path: Path, rows: list[Row]) -> tuple[np.ndarray, list[str]]:
    """Labels (N,) int32 and the names of the classes."""
    integers = [bool(INTEGER.fullmatch(fields[1])) for _, fields in rows]
    if any(integers) and not all(integers):
        name, number = rows[integers.index(False)], rows[integers.index(True)]
        raise DataError(
            f"{path}: the label {name[1][1]!r} in line {name[0]} is a name, and {number[1][1]!r} in line "
            f"{number[0]} is a number. Write all of them as the one or the other."
        )
    texts = [fields[1] for _, fields in rows]
    if not any(integers):
        classes = sorted(set(texts))
        by_name = {name: label for label, name in enumerate(classes)}
        return np.array([by_name[text] for text in texts], dtype=np.int32), classes
    for (line, _), text in zip(rows, texts, strict=True):
        # More classes than images cannot be; asked here, so that a slip of the pen makes no list of billions.
        if not 0 <= int(text) < len(rows):
            raise DataError(f"{path}, line {line}: label {text} does not lie between 0 and {len(rows) - 1}.")
    labels = np.array([int(text) for text in texts], dtype=np.int32)
    return labels, [str(label) for label in range(int(labels.max()) + 1)]


def _check_file(path: Path, line: int, name: str) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DataError(f"{path}, line {line}: {name} must be relative to {path.parent}, and below it.")
    if extension_of(name) not in IMAGE_EXTENSIONS:
        raise DataError(
            f"{path}, line {line}: {name} is not an image that is read here ({', '.join(IMAGE_EXTENSIONS)}). "
            "A first line of other names than path,label,split is taken for an image."
        )
    if not (path.parent / name).is_file():
        raise DataError(f"{path}, line {line}: there is no file {path.parent / name}.")
