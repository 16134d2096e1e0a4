"""What the doctor says: a line for each thing looked at, and what to do where it is not well."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from iwin.errors import UserError
from iwin.secrets import redact


class Level(enum.Enum):
    """How something stands. WRONG: a job would fail or lose something; WARNING: it would run, worse than it could."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


class Finding(NamedTuple):
    """level; said: what was found, with its numbers; advice: what to do about it, empty where all is well."""

    level: Level
    said: str
    advice: str = ""


class Check(NamedTuple):
    """Something to look at. look: returns a finding, or several."""

    name: str
    look: Callable[[], Finding | list[Finding]]


def ok(said: str) -> Finding:
    return Finding(Level.OK, said)


def warning(said: str, advice: str) -> Finding:
    return Finding(Level.WARNING, said, advice)


def wrong(said: str, advice: str) -> Finding:
    return Finding(Level.WRONG, said, advice)


def examine(checks: Iterable[Check]) -> Iterator[tuple[str, Finding]]:
    """(name of the check, finding), as they are made. A check that raises is a finding too: wrong, with the error."""
    for check in checks:
        try:
            found = check.look()
        except UserError as error:  # says itself what to do
            found = wrong(str(error), "")
        except Exception as error:
            found = wrong(f"{type(error).__name__}: {error}", "this check was not prepared for that: see the message")
        for finding in found if isinstance(found, list) else [found]:
            yield check.name, finding


def report(checks: Iterable[Check]) -> bool:
    """Print every finding as it is made; whether nothing is wrong."""
    counts = dict.fromkeys(Level, 0)
    for name, finding in examine(checks):
        counts[finding.level] += 1
        print(redact(f"{finding.level.value:8s} {name:14s} {finding.said}"), flush=True)
        if finding.advice:
            print(redact(f"{'':23s} -> {finding.advice}"), flush=True)
    print(f"\n{counts[Level.OK]} ok, {counts[Level.WARNING]} warnings, {counts[Level.WRONG]} wrong")
    return counts[Level.WRONG] == 0


def gigabytes(number: float) -> str:
    """A number of bytes for people: 0.4 GB, 31 MB."""
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
