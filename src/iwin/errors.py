"""Errors that are for people: what was wrong, with its value, and what to do about it.

The programs print the message of these alone, in a few lines, and exit with 2. Anything else that is
raised is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the user gave cannot be used; the message says what and what to do."""


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""


class DataError(UserError):
    """A data set that is missing, damaged, or not what its configuration says."""


class WeightsError(UserError):
    """A checkpoint that is missing, damaged, or belongs to another model."""


def near_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """The ending of an error message: the names nearest to `name`, or all when none is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=count, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "there are: " + ", ".join(names)
