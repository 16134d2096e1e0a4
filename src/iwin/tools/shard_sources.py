"""What `iwin shards write` can be given: which layout SRC has, and its images by split."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from iwin.data.archives import SYNSET, ArchivedImages, find_synset_images, synset_tars_in
from iwin.data.folder import ImageFiles, find_images, stratified_split
from iwin.data.ilsvrc import TRAIN_TAR, VAL_TAR, find_ilsvrc
from iwin.data.listed import find_listed
from iwin.data.tarwalk import Extent
from iwin.errors import ConfigError, DataError

SPLITS = ("train", "val")
Splits: TypeAlias = dict[str, ImageFiles] | dict[str, ArchivedImages]
ASKED_AT_ONCE = 32  # sizes of files: a file server answers many questions in the time of one
FILES_A_TASK = 1024
LAYOUTS = """SRC is one of:

  a folder with train/<class>/* and val/<class>/*
  a folder with <class>/*, and --val-fraction
  a folder with ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, and --val-labels
  a folder of tars of synsets (n01440764.tar ...), or a tar of such tars: ImageNet-22K
  a csv of path,label or path,label,split, with paths relative to its folder
"""


Images = TypeVar("Images", ImageFiles, ArchivedImages)


class Kind(Enum):
    """A layout of SRC. told: it in words, for people."""

    SPLIT_FOLDERS = "train/ and val/ with class folders"
    CLASS_FOLDERS = "class folders without a split"
    ILSVRC = "the archives of ImageNet-1K (ILSVRC2012)"
    SYNSET_TARS = "a folder of synset archives"
    TAR_OF_TARS = "one archive of synset archives"
    LISTED = "a csv of images and labels"

    @property
    def told(self) -> str:
        """The layout in words."""
        return self.value


class Given(NamedTuple):
    """The options that tell of a split and its labels; None where not given."""

    val_fraction: float | None = None
    val_labels: Path | None = None
    synset_order: Path | None = None


def recognise(source: Path) -> Kind:
    """The layout of `source`, by what is there. Beside the two archives of ILSVRC, others are passed over.

    Raises:
        DataError: nothing is there, it has no known layout, or more than one.
    """
    if source.is_file() and source.suffix in (".csv", ".tar"):
        return Kind.LISTED if source.suffix == ".csv" else Kind.TAR_OF_TARS
    if not source.is_dir():
        what = "is neither a folder nor a .csv or .tar file" if source.exists() else "is not there"
        raise DataError(f"{source} {what}.\n{LAYOUTS}")
    visible = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    folders = [path.name for path in visible if path.is_dir()]
    tars = [path.name for path in visible if path.suffix == ".tar" and not path.is_dir()]
    if not tars:
        return Kind.SPLIT_FOLDERS if set(SPLITS) <= set(folders) else Kind.CLASS_FOLDERS
    ilsvrc = {TRAIN_TAR, VAL_TAR} & set(tars)
    # The unpacked development kit may lie beside the archives of ILSVRC; their unpacked images may not.
    rivals = sorted(set(SPLITS) & set(folders)) if ilsvrc else folders
    if rivals:
        raise DataError(
            f"{source} holds archives ({tars[0]}) and folders ({rivals[0]}): it is not clear which of them to "
            "write. Move either away."
        )
    if ilsvrc:
        lacking = sorted({TRAIN_TAR, VAL_TAR} - set(tars))
        if lacking:
            raise DataError(f"{source} has no {lacking[0]}, which belongs to {tars[0]}.")
        return Kind.ILSVRC
    return Kind.TAR_OF_TARS if len(visible) == 1 and not SYNSET.fullmatch(visible[0].stem) else Kind.SYNSET_TARS


def find_splits(source: Path, kind: Kind, given: Given, seed: int) -> Splits:
    """The images of `source`, which has the layout `kind`, by split: train and, where there is one, val.

    Raises:
        ConfigError: an option is missing, or given for a layout that has no use for it.
        DataError: what is there cannot be read, or does not belong together.
    """
    if kind is not Kind.ILSVRC:
        _refuse(source, kind, "--val-labels", given.val_labels)
        _refuse(source, kind, "--synset-order", given.synset_order)
    if kind in (Kind.ILSVRC, Kind.SPLIT_FOLDERS):
        _refuse(source, kind, "--val-fraction", given.val_fraction)
    if kind is Kind.ILSVRC:
        return find_ilsvrc(source, given.val_labels, given.synset_order)
    if kind is Kind.SPLIT_FOLDERS:
        train = find_images(source / "train")
        return {"train": train, "val": find_images(source / "val", train.classes)}
    if kind in (Kind.SYNSET_TARS, Kind.TAR_OF_TARS):
        images = find_synset_images(_synset_tars(source, kind))
        return {"train": images} if given.val_fraction is None else _halves(images, given.val_fraction, seed)
    if kind is Kind.LISTED:
        listed = find_listed(source)
        if "all" not in listed:
            _refuse(source, kind, "--val-fraction", given.val_fraction)
            return listed
        if given.val_fraction is None:
            raise ConfigError(f"{source} has no column split. Add it, or make a split: --val-fraction 0.1.")
        return _halves(listed["all"], given.val_fraction, seed)
    if given.val_fraction is None:
        raise ConfigError(
            f"{source} has not both train/ and val/. If it holds <class>/<image>, make a split: --val-fraction 0.1."
        )
    return _halves(find_images(source), given.val_fraction, seed)


def source_sizes(images: ImageFiles | ArchivedImages) -> np.ndarray:
    """(N,) int64: the bytes of each image, which is not read. Raises DataError for a file that is gone or empty."""
    if isinstance(images, ArchivedImages):
        return images.places[:, 2]
    starts = range(0, len(images.labels), FILES_A_TASK)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return np.concatenate(list(pool.map(lambda start: _file_sizes(images, start), starts)))


def _file_sizes(images: ImageFiles, start: int) -> np.ndarray:
    sizes = []
    for index in range(start, min(start + FILES_A_TASK, len(images.labels))):
        path = os.path.join(images.root, images.name(index))
        try:
            sizes.append(os.stat(path).st_size)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}. Restore it or remove it.") from error
        if not sizes[-1]:
            raise DataError(f"{path} is empty. Replace it or remove it.")
    return np.array(sizes, dtype=np.int64)


def _refuse(source: Path, kind: Kind, option: str, value: object) -> None:
    if value is not None:
        already = " and is split already" if option == "--val-fraction" else ""
        raise ConfigError(f"{source} is {kind.told}{already}: leave out {option} {value}.")


def _halves(images: Images, fraction: float, seed: int) -> dict[str, Images]:
    halves = stratified_split(images.labels, fraction, seed)
    return {split: images.select(half) for split, half in zip(SPLITS, halves, strict=True)}


def _synset_tars(source: Path, kind: Kind) -> dict[str, tuple[Path, Extent | None]]:
    if kind is Kind.TAR_OF_TARS:
        return synset_tars_in(source if source.is_file() else next(source.glob("*.tar")))
    found: dict[str, tuple[Path, Extent | None]] = {}
    for path in sorted(path for path in source.iterdir() if not path.name.startswith(".")):
        if path.suffix != ".tar" or not SYNSET.fullmatch(path.stem):
            raise DataError(
                f"{path} is not the archive of a synset, as n01440764.tar. Move it away, or fetch it again."
            )
        found[path.stem] = (path, None)
    return found
