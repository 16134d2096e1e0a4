"""The command `iwin`: every module of this room that has `add_parser` is the subcommand of its name."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

import iwin.tools
from iwin.errors import UserError
from iwin.exit_codes import USER_ERROR
from iwin.imports import no_collection


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of one subcommand, without importing what others need; of all where `command` is none of them."""
    root = argparse.ArgumentParser(prog="iwin", description="What surrounds training; train.py and eval.py do that.")
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")
    names = [module.name for module in pkgutil.iter_modules(iwin.tools.__path__)]
    for name in [command] if command in names and _adds(command) else names:
        add = _adds(name)
        if add is not None:
            add(subparsers)
    return root


def _adds(name: str) -> Callable[[Any], None] | None:
    return getattr(importlib.import_module(f"iwin.tools.{name}"), "add_parser", None)


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; the exit code is 2 where what the user gave cannot be used."""
    given = sys.argv[1:] if argv is None else argv
    with no_collection():
        arguments = parser(given[0] if given else None).parse_args(given)
    try:
        return arguments.func(arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
