"""What became of every entry when weights were loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """Every entry of the model and of the source, and what became of it. Printed, it is a few lines.

    source, naming: where the weights are from, and whose names they have.
    loaded: our name -> the source's, with the resized ones. resized: our name -> shape there, shape here.
    recomputed: entries of the source that the model makes itself.
    initialised: our name -> how, for what the source does not have.
    ignored: the source's name -> why, for what the model has no use for.
    notes: what is assumed, and what else a reader should know.
    """

    source: str
    naming: str
    loaded: dict[str, str]
    resized: dict[str, tuple[Shape, Shape]]
    recomputed: tuple[str, ...]
    initialised: dict[str, str]
    ignored: dict[str, str]
    notes: tuple[str, ...]

    def source_name(self, name: str) -> str:
        """What the source calls the loaded entry `name` of the model. KeyError where it was not loaded."""
        return self.loaded[name]

    def __str__(self) -> str:
        counts = {"loaded": len(self.loaded) - len(self.resized)}
        counts |= {name: len(getattr(self, name)) for name in ("resized", "recomputed", "initialised", "ignored")}
        total = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "loaded")
        whose = "our" if self.naming == "ours" else self.naming
        lines = [f"Weights   {self.source} ({whose} names): {total}"]
        shapes = {name: f"{_by(there)} -> {_by(here)}" for name, (there, here) in self.resized.items()}
        for label, entries in (("resized", shapes), ("initialised", self.initialised), ("ignored", self.ignored)):
            lines += [f"  {label:11s} {line}" for line in _grouped(entries)]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _grouped(entries: dict[str, str]) -> list[str]:
    """`name: what` for each entry, those that differ in numbers of blocks or stages alone as one line."""
    groups: dict[str, list[str]] = {}
    for name, what in entries.items():
        groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(what)
    lines = []
    for pattern, found in groups.items():
        distinct = list(dict.fromkeys(found))
        told = ", ".join(distinct[:4]) + (f" and {len(distinct) - 4} others" if len(distinct) > 4 else "")
        lines.append(f"{pattern}{f' ({len(found)})' if len(found) > 1 else ''}: {told}")
    return lines
