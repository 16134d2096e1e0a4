"""`iwin bench`: what this machine does with our code, beside other code for the same."""

from __future__ import annotations

from typing import Any

from iwin.tools.bench import data, index, shuffle

# Each has `add_command`, as the tools have `add_parser`.
COMMANDS = (data, index, shuffle)


def add_parser(subparsers: Any) -> None:
    """Add `bench` with its commands to the subparsers of `iwin`."""
    bench = subparsers.add_parser("bench", help="measure speed on this machine")
    commands = bench.add_subparsers(dest="bench_command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
