"""Names for rows of single runs: the model, and where that is not enough, the keys in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iwin.tools.report.runs import Run
from iwin.train.run_folder import NOT_IDENTITY

MOST_KEYS = 3  # in a name; with more, the folder's name stands for them
MOST_CHARACTERS = 24  # of a value
SEEDS = ("seed", "data.seed")
ABSENT = "none"


def identity(run: Run) -> dict[str, str]:
    """The settings that decide what a run computes, by their dotted keys, the seed not among them."""
    hidden = [*SEEDS, "paper", *NOT_IDENTITY[""]]
    hidden += [f"{group}.{key}" for group, keys in NOT_IDENTITY.items() if group for key in keys]
    flat: dict[str, str] = {}
    _flatten(run.config, "", flat)
    return {key: value for key, value in flat.items() if not any(f"{key}.".startswith(f"{one}.") for one in hidden)}


def names(groups: Sequence[Run]) -> list[str]:
    """A name for each, given a run of each group: no two the same."""
    found = [run.model for run in groups]
    for more in (_sizes, _differences):
        for name in dict.fromkeys(found):
            same = [index for index, one in enumerate(found) if one == name]
            if len(same) > 1:
                for index, said in zip(same, more([groups[index] for index in same]), strict=True):
                    found[index] = f"{name} {said}".strip()
    tails = _tails([run.folder.resolve() for run in groups])
    return [name if found.count(name) == 1 else tail for name, tail in zip(found, tails, strict=True)]


def _tails(paths: Sequence[Path]) -> list[str]:
    """The ends of different paths, of as few parts as tell them apart."""
    for parts in range(1, max(len(path.parts) for path in paths)):
        tails = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(tails)) == len(tails):
            return tails
    return [str(path) for path in paths]


def _sizes(runs: Sequence[Run]) -> list[str]:
    """The sides of the images, where they are not the same in all."""
    sizes = [run.image_size for run in runs]
    return sizes if len(set(sizes)) > 1 else [""] * len(sizes)


def _differences(runs: Sequence[Run]) -> list[str]:
    """For each run the keys whose values are not the same in all; its folder's name where they are too many."""
    settings = [identity(run) for run in runs]
    every = list(dict.fromkeys(key for one in settings for key in one))
    differing = {key: values for key in every if len(set(values := [one.get(key, ABSENT) for one in settings])) > 1}
    # The same part of a configuration stands in several places: mixer and model.mixer. The shortest key says it.
    short = [
        key
        for key, values in differing.items()
        if not any(key.endswith(f".{other}") and values == differing[other] for other in differing)
    ]
    if not 0 < len(short) <= MOST_KEYS:
        return [run.folder.resolve().name for run in runs]
    return [", ".join(f"{key}={_value(one.get(key, ABSENT))}" for key in short) for one in settings]


def _value(value: str) -> str:
    return value if len(value) <= MOST_CHARACTERS else value[: MOST_CHARACTERS - 1] + "…"


def _flatten(part: Any, at: str, flat: dict[str, str]) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "_target_":
                flat[at] = str(value).rpartition(".")[2]
            else:
                _flatten(value, f"{at}.{key}" if at else str(key), flat)
    elif isinstance(part, list) and any(isinstance(one, dict | list) for one in part):
        for index, one in enumerate(part):
            _flatten(one, f"{at}.{index}", flat)
    else:
        flat[at] = "null" if part is None else str(part).replace("'", "")
