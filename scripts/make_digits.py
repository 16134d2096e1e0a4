"""Write the handwritten digits that come with the package, as tar shards: python scripts/make_digits.py DST

The 1,797 images of the test part of UCI's "Optical Recognition of Handwritten Digits" (8 x 8, values 0..16), as
scikit-learn ships them. DST, by default src/iwin/data/digits, must not hold a data set yet. The files are the
same, byte for byte, at every run; a test holds the ones in the package to it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from iwin.data.folder import stratified_split
from iwin.data.writer import DataSetWriter, Sample
from iwin.runtime import position_seed

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "iwin" / "data" / "digits"
VAL_FRACTION = 0.2
SHARDS = {"train": 4, "val": 2}
SEED = 0
ABOUT = {
    "name": "Optical Recognition of Handwritten Digits (the 1,797 images of its test part)",
    "source": "UCI Machine Learning Repository, by way of sklearn.datasets.load_digits",
    "licence": "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    "citation": "Alpaydin, E. and Kaynak, C. (1998). Optical Recognition of Handwritten Digits. "
    "UCI Machine Learning Repository. https://doi.org/10.24432/C50P49",
    "changes": "values 0..16 scaled to 0..255 and rounded; split into training and validation by class; shuffled",
    "command": "python scripts/make_digits.py",
}


def png(values: np.ndarray) -> bytes:
    """An image of values 0..16 as an 8-bit grey PNG."""
    file = io.BytesIO()
    # Stored without compression: 64 pixels gain nothing, and the bytes do not depend on the version of zlib.
    Image.fromarray(np.rint(values * 255 / 16).astype(np.uint8)).save(file, "PNG", compress_level=0)
    return file.getvalue()


def write(target: Path) -> None:
    """Write both splits, each shuffled once, into the folder `target`."""
    digits = load_digits()
    halves = dict(zip(SHARDS, stratified_split(digits.target, VAL_FRACTION, SEED), strict=True))

    def samples(split: str) -> Iterator[Sample]:
        generator = np.random.Generator(np.random.PCG64(position_seed(SEED, f"digits/{split}")))
        for index in generator.permutation(halves[split]).tolist():
            yield Sample(f"digit-{index:04d}", png(digits.images[index]), "png", int(digits.target[index]))

    with DataSetWriter(target, classes=[str(name) for name in digits.target_names], about=ABOUT) as writer:
        for split, count in SHARDS.items():
            writer.write_split(split, samples(split), samples_per_shard=-(-len(halves[split]) // count))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)
