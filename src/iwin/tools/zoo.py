"""`iwin zoo`: the models as a table, counted here, with the papers' accuracies beside."""

from __future__ import annotations

import argparse

import torch

from iwin.models.count import count_model
from iwin.models.zoo import create_model
from iwin.tools.paper import TOP1

RULE = "FLOPs: multiply-adds of convolutions, linear layers and attention products, each counted once."


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand `zoo`."""
    parser = subparsers.add_parser("zoo", help="the models: parameters, FLOPs, the papers' accuracy")
    parser.set_defaults(func=lambda arguments: print(table()))


def table() -> str:
    """A Markdown table of every model and image size in the papers' tables, counted anew."""
    rows = ["| model | pixels | window | parameters | FLOPs | paper, from 1K | paper, from 22K |"]
    rows.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, side in dict.fromkeys((name, side) for name, side, _ in TOP1):
        with torch.device("meta"):
            model = create_model(name, img_size=side)
        counts = count_model(model, (side, side))
        accuracies = [TOP1.get((name, side, pretrained)) for pretrained in (False, True)]
        cells = [
            f"`{name}`",
            str(side),
            str(model.plan[0].window),
            f"{counts.parameters / 1e6:.2f} M",
            f"{counts.flops / 1e9:.2f} G",
            *("" if accuracy is None else f"{accuracy:.1f} %" for accuracy in accuracies),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", RULE])
