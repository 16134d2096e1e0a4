"""`iwin report`: runs and sweeps as tables and pictures, the paper's numbers beside ours; from local files alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """The subcommand `report`."""
    parser = subparsers.add_parser(
        "report",
        help="runs and sweeps as tables and pictures, the paper beside ours",
        description="Read runs and sweeps from their folders, print a table of each, and write report.md, report.csv, "
        "report.tex, report.html (one page with everything in it) and the pictures. Runs that differ in the seed "
        "alone are one row. What was made by other code or of other data is marked.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="the folder of a run or a sweep, or one that holds several"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write (default: report in the sweep's folder, else here); a former report there is replaced",
    )
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> None:
    """Run `iwin report`. Raises as `make_report`."""
    from iwin.tools.report.make import make_report  # here, as it imports Lightning, which takes seconds

    make_report(arguments.folders, arguments.out)
