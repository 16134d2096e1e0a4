"""Many short strings packed end to end, so that millions cost their bytes and no Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


class PackedStrings:
    """A read-only sequence of strings over two arrays, which may be memory-mapped.

    ends: (N,) unsigned, the position in `blob` just past each string.
    blob: (bytes,) uint8, the strings in UTF-8. Bytes of file names that are not UTF-8 survive the round trip.

    A list of a million str would also be copied page by page into every worker, as each look-up writes its
    reference count; these arrays stay shared.
    """

    def __init__(self, ends: np.ndarray, blob: np.ndarray) -> None:
        self.ends = ends
        self.blob = blob

    @classmethod
    def pack(cls, strings: Iterable[str]) -> PackedStrings:
        """Pack `strings`.

        Raises:
            ValueError: they take 4 GiB or more together, past the range of a 32-bit end.
        """
        encoded = [string.encode("utf-8", "surrogateescape") for string in strings]
        ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        if len(ends) and ends[-1] >= 2**32:
            raise ValueError(f"{len(ends)} strings of {ends[-1]} bytes do not fit in 4 GiB")
        return cls(ends.astype("<u4"), np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> str:
        """The string at `index`, from 0; IndexError outside."""
        if not 0 <= index < len(self.ends):
            raise IndexError(f"string {index} of {len(self.ends)}")
        start = int(self.ends[index - 1]) if index else 0
        return self.blob[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")
