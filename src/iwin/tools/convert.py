"""`iwin convert`: weights from any file that we read, to safetensors with our names or those of other code."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from iwin.errors import ConfigError, WeightsError, near_names
from iwin.models.protocol import WindowTransformer
from iwin.models.zoo import create_model
from iwin.weights.config import check_expressible
from iwin.weights.formats import NAMINGS, OURS, RELEASED, absolute_from_ours, from_ours, naming_of, to_ours
from iwin.weights.load import load_pretrained
from iwin.weights.read import Weights, read_weights
from iwin.weights.save import save_weights


def add_parser(subparsers: Any) -> None:
    """Add `convert` to the subparsers of `iwin`."""
    convert = subparsers.add_parser(
        "convert",
        help="write weights as safetensors, with our names or the released models'",
        description="Read the weights in SRC (released Swin or Iwin, timm's Swin, safetensors, a checkpoint of a run), "
        "and write them to DST, bit for bit, with the model's configuration in a json beside it.",
    )
    convert.add_argument("source", type=Path, metavar="SRC")
    convert.add_argument("target", type=Path, metavar="DST", help="a new .safetensors file")
    convert.add_argument("--to", choices=NAMINGS, default=OURS, help="whose names to use (default: ours)")
    convert.add_argument(
        "--model",
        nargs="+",
        metavar=("NAME", "KEY=VALUE"),
        help="the model that the weights are of, where SRC does not tell: iwin_b img_size=384",
    )
    convert.set_defaults(func=convert_command)


def convert_command(arguments: argparse.Namespace) -> int:
    """Run `iwin convert`. Raises WeightsError and ConfigError for what cannot be read, converted or written."""
    weights = read_weights(arguments.source)
    model = _model(weights, arguments.model)
    report = load_pretrained(model, weights)
    changed = [*report.resized, *report.initialised]
    if changed:
        raise WeightsError(
            f"{weights.source} is of another model: {changed[0]} would be resized or made anew. Say what it is, with "
            f"--model NAME img_size=... window_size=..."
        )
    check_expressible(model.config, arguments.to)
    tensors = {}
    for name, own in model.state_dict().items():
        # The source's own tensor: the model's may be of another type of numbers.
        tensor = weights.tensors[report.source_name(name)].reshape(own.shape)
        if arguments.to == RELEASED and name == "positions.absolute.table":
            tensor = absolute_from_ours(tensor)
        tensors[from_ours(name, arguments.to)] = tensor
    save_weights(arguments.target, tensors, model.config)
    print(report)
    print(f"Written   {arguments.target}, {len(tensors)} entries, names: {arguments.to}")
    return 0


def _model(weights: Weights, asked: list[str] | None) -> WindowTransformer:
    """The model that `--model` names, else the one whose configuration the weights carry."""
    if asked is None:
        if weights.config is None:
            raise ConfigError(
                f"{weights.source} does not carry the configuration of a model of ours: say which one it is, such as "
                f"--model iwin_b img_size=384"
            )
        return WindowTransformer(**weights.config)
    name, *pairs = asked
    known = list(inspect.signature(create_model).parameters)[1:]
    for pair in pairs:
        key, sign, _ = pair.partition("=")
        if not sign or key not in known:
            raise ConfigError(f"--model {name} {pair}: there is no key {key!r}; {near_names(key, known)}")
    parsed = OmegaConf.to_container(OmegaConf.from_dotlist(pairs))
    assert isinstance(parsed, dict)
    keys = {str(key): value for key, value in parsed.items()}
    if "num_classes" not in keys:
        naming = naming_of(weights.tensors)
        heads = [t for theirs, t in weights.tensors.items() if to_ours(theirs, naming) == "head.fc.weight"]
        keys["num_classes"] = heads[0].shape[0] if heads and heads[0].ndim else 0
    return create_model(name, **keys)
