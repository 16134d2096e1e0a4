"""Where the images of a data set are, and whether what is there is what the configuration says."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import ImageNetInfo

from iwin.data.cache import ShardCache
from iwin.data.dataset import ImageDataset, Transform
from iwin.data.fetch import Patience
from iwin.data.folder import FolderDataset, ImageFiles, class_names, find_images, stratified_split
from iwin.data.remote import GIGABYTE, FetchedShards
from iwin.data.shards import ShardDataset, ShardFolder, ShardPlace
from iwin.errors import ConfigError, DataError, near_names

FORMATS = ("shards", "folder")
SPLITS = ("train", "val")
CLASS_LISTS = ("imagenet-1k", "imagenet-22k")
PATIENCE = Patience()


class Source:
    """The keys of conf/data that tell where the images are. Nothing is looked at before it is asked for.

    format "shards": `train` and `val` are globs of indexed tar shards in `root`.
    format "folder": they are the folders in `root` that hold the class folders, and with val_fraction the class
        folders lie in `root` itself.
    val_fraction: this share of each class of the training images, chosen by `split_seed`, is for validation.
    root_env: the environment variable that sets `root`, or None; error messages tell it.
    num_classes: or None for what the data set tells.
    cache_dir, cache_gb: where shards at a URL are kept as they are fetched, on a disk of the node, and how much of
        them, in gigabytes; open_files: of these that a process keeps open. whole_shards: see ShardFolder.
    class_list: a list of synsets that timm has, as imagenet-1k, whose order the classes must have; or None. With
        another order the rows of released heads would mean other classes.

    Raises:
        ConfigError: an unknown format or class list.
    """

    def __init__(
        self,
        *,
        name: str,
        format: str,
        root: str | None,
        root_env: str | None,
        train: str,
        val: str,
        val_fraction: float | None,
        num_classes: int | None,
        class_list: str | None,
        split_seed: int,
        cache_dir: str,
        cache_gb: float,
        open_files: int,
        whole_shards: bool,
    ) -> None:
        if format not in FORMATS:
            raise ConfigError(f"data.format is {format!r}: {near_names(format, FORMATS)}")
        if root is not None and format == "folder" and "://" in root:
            raise ConfigError("data.root is a URL, and only shards are fetched: write them, iwin shards write SRC DST")
        if class_list is not None and class_list not in CLASS_LISTS:
            raise ConfigError(f"data.class_list is {class_list!r}: {near_names(class_list, CLASS_LISTS)}")
        self.name = name
        self.format = format
        self.parts = {"train": train, "val": val}
        self.val_fraction = val_fraction
        self.split_seed = split_seed
        self._root = root
        self._root_env = root_env
        self._num_classes = num_classes
        self._class_list = class_list
        self.cache_dir, self.cache_bytes, self.open_files = cache_dir, int(cache_gb * GIGABYTE), open_files
        self.whole_shards = whole_shards

    @property
    def remote(self) -> bool:
        """Whether the data set is at a URL."""
        return self._root is not None and "://" in self._root

    @cached_property
    def place(self) -> ShardPlace:
        """Where the shards are. Raises as `root`, and as ShardCache for a URL."""
        if not self.remote:
            return ShardFolder(self.root, self.whole_shards)
        folder = Path(self.cache_dir).expanduser()
        cache = ShardCache(str(self._root), folder, limit_bytes=self.cache_bytes, patience=PATIENCE)
        return FetchedShards(cache, self.open_files)

    @cached_property
    def root(self) -> Path:
        """The folder of the data set. ConfigError where it is not set, DataError where it is missing or empty."""
        if self._root is None:
            raise ConfigError(f"data.root is not set: give the folder of the images, data.root=/path. {self._layout()}")
        root = Path(self._root).expanduser()
        if not root.is_dir():
            raise DataError(f"data set {self.name!r}: {root} is not a folder. {self._advice()}")
        if not any(root.iterdir()):
            raise DataError(f"data set {self.name!r}: {root} is empty. {self._advice()}")
        return root

    def open(self, split: str, transform: Transform, seed: int | None) -> ImageDataset:
        """The data set of `split` ("train" or "val"), checked against num_classes.

        Raises:
            DataError: nothing is there, it is damaged (see ShardDataset, find_images), or its labels or classes
                do not agree with num_classes.
        """
        dataset: ImageDataset
        if self.format == "folder":
            dataset = FolderDataset(self._files(split), transform, seed)
        else:
            part = "train" if self.val_fraction is not None else split
            if not self.remote:
                self._check_shards(part)
            dataset = ShardDataset(self.place, self.parts[part], transform, seed, self._rows(split))
        self._check_labels(split, dataset)
        return dataset

    @cached_property
    def classes(self) -> list[str] | None:
        """The names of the classes by label, or None where shards came without a manifest."""
        if self.format == "shards":
            manifest = self.place.manifest
            return None if manifest is None else list(manifest["classes"])
        if self.val_fraction is not None:
            return self._all_files.classes
        # An evaluation may have the validation images alone; where both are there, training numbers the classes.
        train = self.root / self.parts["train"]
        return class_names(train if train.is_dir() else self._folder("val"))

    @property
    def num_classes(self) -> int:
        """data.num_classes, or where that is null the number of classes that the data set tells.

        Raises:
            ConfigError: it is null and the data set does not tell.
        """
        if self._num_classes is not None:
            return self._num_classes
        if self.classes is None:
            raise ConfigError(f"data.num_classes is null, and the shards in {self.place} have no manifest: set it.")
        return len(self.classes)

    @cached_property
    def _all_files(self) -> ImageFiles:
        files = find_images(self.root)
        if set(files.classes) == set(self.parts.values()):
            raise ConfigError(
                f"data.val_fraction is {self.val_fraction}, and {self.root} is split already into "
                f"{' and '.join(files.classes)}: set data.val_fraction to null."
            )
        return files

    @cached_property
    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.val_fraction is not None
        labels = np.concatenate([shard.labels for shard in self.place.indexes(self.parts["train"])])
        halves = stratified_split(labels, self.val_fraction, self.split_seed)
        return halves[0].astype(np.int32), halves[1].astype(np.int32)

    def _rows(self, split: str) -> np.ndarray | None:
        """The samples of the training shards that are of `split`, where one was not made in writing."""
        return None if self.val_fraction is None else self._halves[SPLITS.index(split)]

    def _files(self, split: str) -> ImageFiles:
        if self.val_fraction is None:
            return find_images(self._folder(split), None if split == "train" else self.classes)
        files = self._all_files
        halves = stratified_split(files.labels, self.val_fraction, self.split_seed)
        return files.select(halves[SPLITS.index(split)])

    def _folder(self, split: str) -> Path:
        folder = self.root / self.parts[split]
        if not folder.is_dir():
            raise DataError(
                f"data set {self.name!r}: there is no {folder} (data.{split}={self.parts[split]}). {self._layout()}"
            )
        return folder

    def _check_shards(self, split: str) -> None:
        if any(path.suffix == ".tar" for path in self.root.glob(self.parts[split])):
            return
        others = sorted(path.name for path in self.root.glob("*.tar"))
        there = f"there are {len(others)} others, as {others[0]}" if others else "there are no .tar files at all"
        raise DataError(
            f"data set {self.name!r}: no shard in {self.root} matches data.{split}={self.parts[split]!r}; {there}. "
            f"{self._advice()}"
        )

    def _check_labels(self, split: str, dataset: ImageDataset) -> None:
        classes = self.num_classes
        fix = f"Set data.num_classes to what is in {self._root}, or data.root to another data set."
        if dataset.classes is not None and len(dataset.classes) != classes:
            raise DataError(
                f"data set {self.name!r} has {len(dataset.classes)} classes, and data.num_classes is {classes}. {fix}"
            )
        self._check_class_list(dataset.classes)
        present = np.flatnonzero(dataset.class_counts())
        if present[-1] >= classes:
            raise DataError(
                f"data set {self.name!r}: labels of {split} go from {present[0]} to {present[-1]}, "
                f"and data.num_classes is {classes}. {fix}"
            )
        # A head with rows that no image trains is a wrong number of classes; validation may lack some.
        if split == "train" and len(present) != classes:
            raise DataError(
                f"data set {self.name!r}: the training images are of {len(present)} classes, "
                f"and data.num_classes is {classes}. {fix}"
            )

    def _check_class_list(self, classes: list[str] | None) -> None:
        if self._class_list is None or classes is None:
            return
        wanted = ImageNetInfo(self._class_list).label_names()
        for label, (here, there) in enumerate(zip(classes, wanted, strict=False)):
            if here != there:
                raise DataError(
                    f"data set {self.name!r}: class {label} is {here}, and {there} in {self._class_list}: the rows of "
                    "released heads would mean other classes. Write it with classes named by their synsets; or set "
                    "data.class_list to null, if no released head is to fit it."
                )

    def _layout(self) -> str:
        if self.format == "shards":
            return "Make shards of class folders: iwin shards write SRC DST"
        train, val = self.parts["train"], self.parts["val"]
        return (
            f"The images are looked for as {train}/<class>/<image> and {val}/<class>/<image> in it; or as "
            "<class>/<image> with data.val_fraction=0.2, which makes the split."
        )

    def _advice(self) -> str:
        key = "data.root" + (f" or the environment variable {self._root_env}" if self._root_env else "")
        return f"Set {key} to where it is. {self._layout()}"

    def describe(self) -> dict[str, Any]:
        """Name, format and number of classes, for the provenance of a run."""
        return {"name": self.name, "format": self.format, "num_classes": self.num_classes}
