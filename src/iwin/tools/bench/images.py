"""The images of the benchmark: JPEGs like ImageNet's, made of the photographs that scikit-image ships.

No download, and the same bytes at the same seed and versions: each image is a random part of a photograph, perhaps
mirrored, at another scale. ImageNet-1K's images have about 500 x 375 pixels and 110 KB.
"""

from __future__ import annotations

import bisect
import io
import json
import statistics
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from iwin.data.folder import find_images
from iwin.data.writer import DataSetWriter, Sample, safe_key
from iwin.errors import ConfigError, whole
from iwin.runtime import position_seed

# Colour photographs, with the detail and the smooth areas that pictures have; the class is the photograph.
PHOTOGRAPHS = (
    *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg"),
    *("motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
)
SIZES = ((500, 375), (500, 375), (500, 333), (375, 500))  # width, height; ImageNet's most frequent
SMALLEST_PART = 0.7  # of the photograph's sides
MEAN_BYTES = 110_000
QUALITIES = range(80, 101)
TRIED = 40  # images that the quality is chosen by
SHARD_BYTES = 32_000_000
FACTS = "images.json"


class BenchImages(NamedTuple):
    """Where the same JPEGs lie as class folders (`folder`) and as tar shards (`shards`), and what they are.

    mean_bytes: of a file. mean_pixels: width times height. quality: of all JPEGs, in Pillow's scale.
    """

    root: Path
    number: int
    seed: int
    quality: int
    mean_bytes: float
    mean_pixels: float

    @property
    def folder(self) -> Path:
        """The folder of the class folders."""
        return self.root / "folder"

    @property
    def shards(self) -> Path:
        """The folder of the shards, train-*.tar."""
        return self.root / "shards"

    def facts(self) -> dict[str, float]:
        """All but the place, as plain values."""
        return {name: value for name, value in self._asdict().items() if name != "root"}


def find_or_make(root: Path, count: int, seed: int) -> BenchImages:
    """The images in `root`: those that an earlier call made there, or new ones where the folder is empty or absent.

    Raises:
        ConfigError: fewer than one image of each photograph, a folder that holds anything else or other images,
            or scikit-image is not installed.
    """
    whole("--images", count, len(PHOTOGRAPHS))
    facts = root / FACTS
    if facts.exists():
        found = BenchImages(root, **json.loads(facts.read_text()))
        if (found.number, found.seed) != (count, seed):
            raise ConfigError(
                f"{root} holds {found.number} images of seed {found.seed}, not {count} of seed {seed}: "
                "give another folder, or none for a temporary one."
            )
        return found
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty, and holds no images of this benchmark: give another folder.")
    quality = _quality(count, seed)
    sizes, pixels = [], []
    for index, (name, image) in enumerate(pictures(count, seed)):
        data = _jpeg(image, quality)
        sizes.append(len(data))
        pixels.append(image.width * image.height)
        path = root / "folder" / name / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    made = BenchImages(root, count, seed, quality, statistics.mean(sizes), statistics.mean(pixels))
    _write_shards(made)
    facts.write_text(json.dumps(made.facts(), indent=2) + "\n")
    return made


def pictures(count: int, seed: int) -> Iterator[tuple[str, Image.Image]]:
    """The images before they are encoded, each with its class. Image `i` is a function of (seed, i)."""
    photographs = _photographs()
    names = sorted(photographs)
    for index in range(count):
        name = names[index % len(names)]
        yield name, _part(photographs[name], np.random.default_rng(position_seed(seed, "bench", index)))


def _photographs() -> dict[str, Image.Image]:
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise ConfigError("the photographs come with scikit-image, which is not installed: pip install 'iwin[bench]'")
    folder = Path(package.origin).parent / "data"
    return {Path(name).stem: Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS}


def _part(photograph: Image.Image, generator: np.random.Generator) -> Image.Image:
    width, height = SIZES[generator.integers(len(SIZES))]
    # The largest part of this aspect ratio, and then a share of it.
    largest = min(photograph.width / width, photograph.height / height)
    scale = largest * generator.uniform(SMALLEST_PART, 1)
    left = generator.uniform(0, photograph.width - scale * width)
    top = generator.uniform(0, photograph.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    part = photograph.resize((width, height), Image.Resampling.LANCZOS, box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else part


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def _quality(count: int, seed: int) -> int:
    """The quality at which the mean size is nearest to MEAN_BYTES."""
    tried = [image for _, image in pictures(min(count, TRIED), seed)]

    def above(quality: int) -> float:
        return statistics.mean(len(_jpeg(image, quality)) for image in tried) - MEAN_BYTES

    # Sizes grow with the quality, so the nearest is one of the two around the crossing.
    first_above = min(bisect.bisect_left(QUALITIES, True, key=lambda quality: above(quality) > 0), len(QUALITIES) - 1)
    around = QUALITIES[max(0, first_above - 1) : first_above + 1]
    return min(around, key=lambda quality: abs(above(quality)))


def _write_shards(images: BenchImages) -> None:
    """All images as one split, shuffled once, as `iwin shards write` does it."""
    files = find_images(images.folder)
    order = np.random.default_rng(position_seed(images.seed, "shards")).permutation(images.number)
    samples = (
        Sample(safe_key(f"{place:06d}"), files.read(index), "jpg", int(files.labels[index]))
        for place, index in enumerate(order.tolist())
    )
    about = {"source": "photographs of scikit-image", "seed": images.seed}
    with DataSetWriter(images.shards, classes=files.classes, about=about) as writer:
        writer.write_split("train", samples, shard_bytes=SHARD_BYTES)
