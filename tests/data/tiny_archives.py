"""Small tar archives in the form of ImageNet's."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from tiny_images import square

SYNSETS = ["n01440764", "n02119789", "n15075141"]


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    """A tar of named files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return file.getvalue()


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """Write a tar of named files."""
    path.write_bytes(tar_bytes(members))
    return path


def by_synset() -> dict[str, list[tuple[str, bytes]]]:
    """The members of each synset's archive: 2, 3 and 4 images, each of a grey of its own."""
    return {
        synset: [(f"{synset}_{number}.JPEG", square(40 * label + number)) for number in range(1, 3 + label)]
        for label, synset in enumerate(SYNSETS)
    }
