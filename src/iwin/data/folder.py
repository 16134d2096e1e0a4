"""A map-style data set over folders of images, one folder a class: <root>/<class>/**/<image>."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from iwin.data.dataset import ImageDataset, Transform
from iwin.data.index import IMAGE_EXTENSIONS
from iwin.data.strings import PackedStrings
from iwin.errors import ConfigError, DataError, near_names
from iwin.runtime import position_seed

# Left by desktops in any folder they show; names that begin with a dot are passed over too.
DESKTOP_FILES = ("thumbs.db", "desktop.ini")


class ImageFiles(NamedTuple):
    """Images in class folders. paths: N paths relative to root; labels: (N,) int32; classes: names by label."""

    root: Path
    paths: PackedStrings
    labels: np.ndarray
    classes: list[str]

    def select(self, indices: np.ndarray) -> ImageFiles:
        """The images at `indices`, in their order, with the same classes."""
        paths = PackedStrings.pack(self.paths[int(index)] for index in indices)
        return self._replace(paths=paths, labels=self.labels[indices])

    def name(self, index: int) -> str:
        """The path of image `index`, relative to the root."""
        return self.paths[index]

    def read(self, index: int) -> bytes:
        """The bytes of image file `index`. Raises DataError where it cannot be read any more."""
        path = self.root / self.paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}. Restore it or remove it.") from error


def class_names(root: Path) -> list[str]:
    """The names of the class folders in `root`, sorted. Raises DataError where it is missing or has none."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder.")
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise DataError(f"{root} has no class folders: images are looked for as {root}/<class>/<image>.")
    return names


def find_images(root: Path, classes: Sequence[str] | None = None) -> ImageFiles:
    """Every image below the class folders of `root`, in the order of class and path.

    classes: the names by label, where another split of the data set sets them; a class that this split lacks is
        allowed then, so that the labels of the two splits agree. By default the folders, sorted.

    Raises:
        DataError: no class folders, a class without images, a folder that is none of `classes`, or a file that
            is not one of the image formats.
    """
    folders = class_names(root)
    names = list(folders if classes is None else classes)
    by_name = {name: label for label, name in enumerate(names)}
    paths: list[str] = []
    labels: list[int] = []
    for folder in folders:
        if folder not in by_name:
            raise DataError(
                f"{root / folder} is a class that the training split does not have: {near_names(folder, names)}"
            )
        found = _images_below(root, folder)
        if not found and classes is None:
            raise DataError(f"class folder {root / folder} holds no images. Fill it or remove it.")
        paths += found
        labels += [by_name[folder]] * len(found)
    if not paths:
        raise DataError(f"the class folders in {root} hold no images.")
    return ImageFiles(root, PackedStrings.pack(paths), np.array(labels, dtype=np.int32), names)


def _images_below(root: Path, folder: str) -> list[str]:
    found: list[str] = []
    for parent, folders, names in os.walk(root / folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith(".") or name.lower() in DESKTOP_FILES:
                continue
            path = os.path.join(parent, name)
            if extension_of(name) not in IMAGE_EXTENSIONS:
                known = ", ".join(IMAGE_EXTENSIONS)
                raise DataError(f"{path} is not an image that is read here ({known}). Convert it or move it away.")
            found.append(os.path.relpath(path, root))
    return sorted(found)


def extension_of(name: str) -> str:
    """The extension of a file name, in lower case and without its dot."""
    return os.path.splitext(name)[1][1:].lower()


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and for validation, each ascending: `fraction` of every class is for validation.

    The count of a class is rounded, at least 1 where it has two images or more, and at most all but one. Which
    images are taken is a function of `seed` and the order of `labels`.

    Raises:
        ConfigError: the fraction is not between 0 and 1, or no class has two images.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"val_fraction is {fraction}: give a fraction between 0 and 1, as 0.2.")
    rng = np.random.Generator(np.random.PCG64(position_seed(seed, "split")))
    taken = np.zeros(len(labels), dtype=bool)
    # Sorted once: a pass over 14 million labels for each of 21,841 classes would take minutes.
    by_class = np.argsort(labels, kind="stable")
    ends = np.unique(labels[by_class], return_index=True)[1][1:]
    for same in np.split(by_class, ends):
        members = rng.permutation(same)
        count = max(1, round(len(members) * fraction))
        taken[members[: min(count, len(members) - 1)]] = True
    if not taken.any():
        raise ConfigError("val_fraction cannot take an image for validation: every class has a single image.")
    return np.flatnonzero(~taken), np.flatnonzero(taken)


class FolderDataset(ImageDataset):
    """The images of `files` (see find_images), read from their files."""

    def __init__(self, files: ImageFiles, transform: Transform, seed: int | None) -> None:
        super().__init__(transform, seed)
        self.files = files
        self.classes = files.classes

    def __len__(self) -> int:
        return len(self.files.labels)

    @property
    def labels(self) -> np.ndarray:
        """(N,) int32."""
        return self.files.labels

    def label(self, index: int) -> int:
        """The label of image `index`."""
        return int(self.files.labels[index])

    def read(self, index: int) -> bytes:
        """The bytes of image file `index`; see ImageFiles.read."""
        return self.files.read(index)

    def key(self, index: int) -> str:
        """The path of the image, relative to the root."""
        return self.files.paths[index]

    def describe(self) -> dict[str, Any]:
        """The root, the number of images, and the SHA-256 of all (path, label) pairs; contents are not hashed."""
        digest = hashlib.sha256(self.files.paths.blob.tobytes())
        digest.update(self.files.paths.ends.tobytes())
        digest.update(self.labels.tobytes())
        return {"root": str(self.files.root), "samples": len(self), "paths_sha256": digest.hexdigest()}
