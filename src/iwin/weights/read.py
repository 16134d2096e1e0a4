"""Files of weights -> tensors by name. The kind of a file is found by its content, never by its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from iwin.errors import WeightsError, near_names
from iwin.models.targets import plain
from iwin.weights.config import check_model_config, model_config_of_run
from iwin.weights.digest import damage, digest_file
from iwin.weights.migrate import migrate
from iwin.weights.pickles import PICKLE_START, ZIP_START, Foreign, as_mapping, open_pickled

FORMAT_VERSION = 1
MARK = "iwin"  # in the metadata of a safetensors file of ours: its configuration stands in a json beside it
JSON_KEYS = ("format_version", "model")
WEIGHTS_UNDER = ("model", "state_dict", "module")  # where checkpoints keep them
WRAPPERS = ("module.", "_orig_mod.", "model.")  # what DistributedDataParallel, torch.compile and tasks put in front


@dataclass(frozen=True)
class Weights:
    """Tensors by the names that their source has for them.

    source: where they are from, for people. beside: what else stood among them and is no tensor.
    config: the configuration of our model that they belong to, where the source carries it.
    run_config: the configuration of the whole run, for the checkpoint of one.
    """

    tensors: dict[str, Tensor]
    source: str
    beside: tuple[str, ...] = ()
    config: dict[str, Any] | None = field(default=None, repr=False)
    run_config: dict[str, Any] | None = field(default=None, repr=False)


def read_weights(source: str | Path | Mapping[str, Any]) -> Weights:
    """The weights in a file (torch.save's, old or new; safetensors), or in a state dict.

    Nothing that a file holds is executed or imported. WeightsError, naming the file, where it is
    missing, empty, truncated, holds no weights, or is not what the sha256 beside it says.
    """
    if isinstance(source, Mapping):
        name = "the given state dict"
        try:
            return _from_tree(source, name, lambda node: isinstance(node, Tensor), lambda node, _: node)
        except WeightsError as error:
            raise WeightsError(f"{name} cannot be read as weights: {error}") from error
    path = Path(source)
    if path.is_dir():
        best = path / "checkpoints" / "best.ckpt"
        raise WeightsError(f"{path} is a folder: name a file in it" + (f", such as {best}" if best.is_file() else ""))
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if not start:
            raise WeightsError("it is empty")
        if start[8:9] == b"{":
            return _safetensors(path)
        if not start.startswith((ZIP_START, PICKLE_START)):
            raise WeightsError(f"it is neither safetensors nor of torch.save: it begins with {start!r}")
        if digest_file(path).exists() and (why := damage(path)):
            raise WeightsError(why)
        with open_pickled(path) as pickled:
            return _from_tree(pickled.tree, str(path), pickled.is_tensor, pickled.tensor)
    except (WeightsError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error


def read_run_checkpoint(path: Path) -> Weights:
    """The weights and the configuration in a checkpoint of a run. WeightsError where it is none."""
    weights = read_weights(path)
    if weights.run_config is None:
        raise WeightsError(
            f"{path} is no checkpoint of a run: it does not carry a run's configuration. Choose the model yourself: "
            f"model=NAME init=checkpoint init.path={path}"
        )
    return weights


def json_beside(path: Path) -> Path:
    """The file with the configuration that belongs to a safetensors file of ours."""
    return path.with_suffix(".json")


def _safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
    except SafetensorError as error:
        raise WeightsError(f"it is truncated or damaged: {error}") from error
    config = None
    if MARK in metadata:
        _check_version(metadata[MARK], "it")
        config = _read_json(json_beside(path))
    return _from_tree(tensors, str(path), lambda node: True, lambda node, _: node, config)


def _check_version(version: Any, what: str) -> None:
    if str(version) != str(FORMAT_VERSION):
        raise WeightsError(f"{what} has format version {version}, this iwin reads {FORMAT_VERSION}: update iwin")


def _read_json(path: Path) -> dict[str, Any]:
    """The model's configuration in the json beside weights of ours."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise WeightsError(f"{path.name} with its configuration is missing beside it: copy both files") from error
    except ValueError as error:
        raise WeightsError(f"{path} is no json: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds {type(content).__name__}, not an object with {', '.join(JSON_KEYS)}")
    for key in content:
        if key not in JSON_KEYS:
            raise WeightsError(f"{path} has an unknown key {key!r}; {near_names(key, JSON_KEYS)}")
    for key in JSON_KEYS:
        if key not in content:
            raise WeightsError(f"{path} lacks the key {key!r}")
    _check_version(content["format_version"], path.name)
    return check_model_config(content["model"], str(path))


def _from_tree(
    tree: Any,
    source: str,
    is_tensor: Callable[[Any], bool],
    tensor: Callable[[Any, str], Tensor],
    config: dict[str, Any] | None = None,
) -> Weights:
    """The weights in what a file holds: under one of WEIGHTS_UNDER, or the whole of it."""
    top = as_mapping(tree)
    if top is None:
        kind = tree.path if isinstance(tree, Foreign) else type(tree).__name__
        raise WeightsError(f"it holds no weights by name but {kind}: save the state_dict() of the model")

    def holds_tensors(node: Any) -> bool:
        mapping = as_mapping(node)
        return mapping is not None and any(map(is_tensor, mapping.values()))

    places = [key for key in WEIGHTS_UNDER if holds_tensors(top.get(key))]
    run_config = None
    if MARK in top and "state_dict" in top:
        run_config = _run_config(top[MARK])
        config = model_config_of_run(run_config)
        places = ["state_dict"]
    entries = as_mapping(top[places[0]]) if places else top
    if entries is None or not holds_tensors(entries):
        has = ", ".join(map(str, list(top)[:8])) or "nothing"
        raise WeightsError(f"it holds no weights, at its top or under {', '.join(WEIGHTS_UNDER)}. It has: {has}")
    if run_config is not None:  # beside the model's weights a task may have others
        entries = {name: node for name, node in entries.items() if str(name).startswith("model.")}
    kept = {str(name): node for name, node in entries.items() if is_tensor(node)}
    beside = tuple(str(name) for name, node in entries.items() if not is_tensor(node))
    names = _unwrapped(list(kept))
    if len(set(names)) < len(kept):
        raise WeightsError("it has two entries of the same name")
    tensors = {name: tensor(node, name) for name, node in zip(names, kept.values(), strict=True)}
    where = f"{source}, under {places[0]}" if places and run_config is None else source
    return Weights(tensors, where, beside, config, run_config)


def _unwrapped(names: list[str]) -> list[str]:
    """The names without what wrappers put in front of all of them."""
    for wrapper in WRAPPERS:
        if names and all(name.startswith(wrapper) for name in names):
            return _unwrapped([name.removeprefix(wrapper) for name in names])
    return names


def _run_config(node: Any) -> dict[str, Any]:
    """The configuration under `iwin` in a run's checkpoint: plain data, with the keys of this version."""
    mapping = as_mapping(node)
    config = as_mapping(mapping.get("config")) if mapping is not None else None
    if mapping is None or config is None or not isinstance(config.get("model"), Mapping):
        raise WeightsError("it has an entry 'iwin', but there is no configuration of a run in it")
    return migrate(plain(config), mapping.get("version"))
