"""Images inside tar archives, read in place: an archive is never unpacked, and no member's name becomes a path.

The archives are those of ImageNet: one tar of images for every class, named by its synset (n01440764.tar), all of
them in a folder or in another tar; or one flat tar of images.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from iwin.data.folder import extension_of
from iwin.data.index import IMAGE_EXTENSIONS
from iwin.data.shards import OpenFiles, open_path
from iwin.data.strings import PackedStrings
from iwin.data.tarwalk import Extent, TarHeaders
from iwin.errors import DataError

SYNSET = re.compile(r"n[0-9]{8}")


class ArchivedImages(NamedTuple):
    """N images in tar archives.

    archives: the files. places: (N, 3) int64, of each image its archive's number, the offset of its first byte there
    and its size in bytes. names: the N names. labels: (N,) int32. classes: names by label. files: open archives.
    """

    archives: list[Path]
    places: np.ndarray
    names: PackedStrings
    labels: np.ndarray
    classes: list[str]
    files: OpenFiles

    def select(self, indices: np.ndarray) -> ArchivedImages:
        """The images at `indices`, in their order, with the same classes."""
        names = PackedStrings.pack(self.names[int(index)] for index in indices)
        return self._replace(places=self.places[indices], names=names, labels=self.labels[indices])

    def name(self, index: int) -> str:
        """The name of image `index` in its archive."""
        return self.names[index]

    def read(self, index: int) -> bytes:
        """The bytes of image `index`. Raises DataError where the archive cannot be read any more."""
        number, offset, size = self.places[index].tolist()
        archive, name = self.archives[number], self.names[index]
        try:
            data = self.files.read(archive, offset, size)
        except OSError as error:
            raise DataError(f"{archive}: {name} cannot be read: {error.strerror}. Restore the archive.") from error
        if len(data) != size:
            raise DataError(f"{archive} ended inside {name}: it was cut short after it was looked through.")
        return data


class _Found:
    """What was found so far. Arrays, as lists of Python's numbers for 14 million images would take gigabytes."""

    def __init__(self) -> None:
        self.archives: list[Path] = []
        self.places = array("q")
        self.labels = array("i")
        self.names: list[str] = []

    def add(self, archive: Path, images: list[Extent], labels: Iterable[int]) -> None:
        if not self.archives or self.archives[-1] != archive:
            self.archives.append(archive)
        for image in images:
            self.places.extend((len(self.archives) - 1, image.offset, image.size))
            self.names.append(image.name)
        self.labels.extend(labels)

    def images(self, classes: list[str]) -> ArchivedImages:
        places = np.array(self.places, dtype=np.int64).reshape(-1, 3)
        labels = np.array(self.labels, dtype=np.int32)
        return ArchivedImages(
            self.archives, places, PackedStrings.pack(self.names), labels, classes, OpenFiles(open_path)
        )


def base_name(member: str) -> str:
    """The last part of a member's name: an archive may hold everything in a folder of its own."""
    return member.rpartition("/")[2]


def synset_tars_in(tar: Path) -> dict[str, tuple[Path, Extent | None]]:
    """By synset, where its archive lies inside the tar of archives `tar`.

    Raises:
        DataError: the tar is damaged, holds no archive, anything else, or a synset twice.
    """
    found: dict[str, tuple[Path, Extent | None]] = {}
    with TarHeaders(tar) as walk:
        for member in walk:
            synset, suffix = base_name(member.name)[:9], base_name(member.name)[9:]
            if not SYNSET.fullmatch(synset) or suffix != ".tar":
                raise DataError(f"{tar}: {member.name!r} is not the archive of a synset, as n01440764.tar.")
            if synset in found:
                raise DataError(f"{tar}: the archive of {synset} comes twice, the second time as {member.name!r}.")
            found[synset] = (tar, member)
    if not found:
        raise DataError(f"{tar} holds no archives of synsets.")
    return found


def find_synset_images(tars: dict[str, tuple[Path, Extent | None]]) -> ArchivedImages:
    """Every image of the synsets' archives, by class and name; the classes are the sorted synsets.

    tars: by synset, a file, and where in it the archive lies (None: it is the file).

    Raises:
        DataError: an archive is damaged, or holds no image, an empty one, one twice, or something that is no image
            of its synset (n01440764_10026.JPEG).
    """
    found = _Found()
    classes = sorted(tars)
    for label, synset in enumerate(classes):
        path, within = tars[synset]
        where = str(path) if within is None else f"{path}: {within.name}"
        wanted = re.compile(rf"{synset}_[0-9]+\.[A-Za-z]+")
        images = _images(path, within, where, wanted, f"an image of {synset}, as {synset}_1.JPEG")
        found.add(path, images, [label] * len(images))
    return found.images(classes)


def find_flat_images(tar: Path, wanted: re.Pattern[str], example: str) -> ArchivedImages:
    """Every image of the flat archive `tar`, by name, without classes: all labels are -1.

    Raises:
        DataError: as find_synset_images, where names do not match `wanted`; `example` shows people one that does.
    """
    found = _Found()
    images = _images(tar, None, str(tar), wanted, f"an image named as {example}")
    found.add(tar, images, [-1] * len(images))
    return found.images([])


def _images(path: Path, within: Extent | None, where: str, wanted: re.Pattern[str], what: str) -> list[Extent]:
    images: dict[str, Extent] = {}
    with TarHeaders(path, within) as walk:
        for member in walk:
            name = base_name(member.name)
            if not wanted.fullmatch(name) or extension_of(name) not in IMAGE_EXTENSIONS:
                raise DataError(f"{where}: {member.name!r} is not {what}. Fetch the archive again.")
            if not member.size:
                raise DataError(f"{where}: {member.name!r} is empty. Fetch the archive again.")
            if name in images:
                raise DataError(f"{where}: {member.name!r} comes twice. Fetch the archive again.")
            images[name] = member._replace(name=name)
    if not images:
        raise DataError(f"{where} holds no images. Fetch it again, or leave it out.")
    return [images[name] for name in sorted(images)]
