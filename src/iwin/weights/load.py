"""Weights into a model, strictly: every entry is loaded, or its absence is explained, or it is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from iwin.errors import ConfigError, near_names
from iwin.weights.match import Match
from iwin.weights.read import Weights, read_weights
from iwin.weights.report import LoadReport

HEADS = ("keep", "reset", "map_22k_to_1k")


def load_pretrained(
    model: nn.Module,
    path_or_state_dict: str | Path | Mapping[str, Any] | Weights,
    *,
    head: str = "keep",
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    allow_config: Sequence[str] = (),
) -> LoadReport:
    """Load released Swin or Iwin weights, timm's Swin, safetensors, or a checkpoint of ours into `model`.

    The source's kind and naming are found by its content. Nothing in a file is executed. Position tables
    of another size are resized; local mixers that appear at a larger image start at zero, so that the
    model begins as the function that was loaded. A model that is not ours takes weights by its own names.

    head: `keep` wants a head of equal size; `reset` leaves the model's as it is; `map_22k_to_1k` takes the
        rows of the 1000 classes from a head of 21841.
    allow_missing: patterns (fnmatch) of the model's names that may keep their values.
    allow_unused: patterns of the source's names that may be left out.
    allow_config: patterns of configuration keys (`num_heads`, `mixer.*`) in which weights that carry their
        configuration may differ from the model; `pad_attention` also for those that do not.

    WeightsError, and the model as it was, for a file that cannot be read, entries that are missing,
    unknown, of another shape or not finite, configurations that differ in function, released weights in a
    model that pads and hides the padding (model.pad_attention), and patterns that match nothing.
    ConfigError for an unknown `head`.
    """
    if head not in HEADS:
        raise ConfigError(f"init.head={head}: {near_names(head, HEADS)}")
    weights = path_or_state_dict if isinstance(path_or_state_dict, Weights) else read_weights(path_or_state_dict)
    allowed = {"allow_missing": allow_missing, "allow_unused": allow_unused, "allow_config": allow_config}
    for key, patterns in allowed.items():
        if isinstance(patterns, str):
            raise ConfigError(f"init.{key} must be a list of patterns, got the text {patterns!r}")
    match = Match(model, weights, {key: tuple(patterns) for key, patterns in allowed.items()})
    match.compare_configurations()
    match.arrange_head(head)
    match.fit()
    match.explain_missing()
    match.explain_unused()
    match.raise_problems()
    model.load_state_dict(match.values)
    return match.report()
