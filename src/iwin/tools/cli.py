"""The command `iwin`: every module of this room that has `add_parser` is a subcommand."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

import iwin.tools
from iwin.errors import UserError
from iwin.exit_codes import USER_ERROR


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    root = argparse.ArgumentParser(prog="iwin", description="What surrounds training; train.py and eval.py do that.")
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")
    for module in pkgutil.iter_modules(iwin.tools.__path__):
        add = getattr(importlib.import_module(f"iwin.tools.{module.name}"), "add_parser", None)
        if add is not None:
            add(subparsers)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; the exit code is 2 where what the user gave cannot be used."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.func(arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
