"""`iwin plan`: what a training command would do, before the GPU hours are spent."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

from iwin.allowed import checked_composition
from iwin.errors import ConfigError
from iwin.exit_codes import DONE, USER_ERROR
from iwin.imports import no_collection
from iwin.secrets import redact, redacted_output, secrets_in
from iwin.tools.doctor.job import configure_with_choices

LINE_WIDTH = 120  # where the output is no terminal


def add_parser(subparsers: Any) -> None:
    """The subcommand `plan`."""
    parser = subparsers.add_parser(
        "plan",
        help="what a training command would do",
        description="What `train.py OVERRIDES` would do, without a GPU and without reading images: model, batch, "
        "schedule, memory (an estimate), time, run folder. The exit code is 2 where training would fail; the reasons "
        "stand at the end. Devices that are not here are none: trainer.devices and trainer.num_nodes say how many.",
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as train.py takes it: model=iwin_b data=in1k")
    parser.add_argument("--images-per-s", type=float, metavar="N", help="that one device trains: tells the time")
    parser.add_argument("--like", type=Path, metavar="RUN", help="a run that has ended: its speed tells the time")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the schedule there")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON, and nothing else")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `iwin plan`; returns the exit code.

    ConfigError where the overrides are no configuration or not of one run, and for options that cannot be used.
    """
    if arguments.images_per_s is not None and arguments.like is not None:
        raise ConfigError("--images-per-s and --like both say how fast training is: leave one out")
    config, choices = configure_with_choices(arguments.overrides)
    if choices.get("sweep"):
        raise ConfigError(f"sweep={choices['sweep']} is many runs: plan one of them, with the overrides of its cell")
    with no_collection():  # here, as they import Lightning, which takes seconds
        import lightning  # noqa: F401  (sets the level of its logger at import)
        from rich.console import Console

        from iwin.tools.plan.drawing import picture
        from iwin.tools.plan.make import make_plan
        from iwin.tools.plan.show import as_data, show

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    secrets = secrets_in(arguments.overrides)
    with redacted_output(secrets):
        with checked_composition(), contextlib.redirect_stdout(sys.stderr):  # of what is made on the way
            plan = make_plan(config, str(choices["model"]), arguments.images_per_s, arguments.like)
        if arguments.json:
            print(json.dumps(redact(as_data(plan)), indent=1))
        else:
            show(plan, Console(width=None if sys.stdout.isatty() else LINE_WIDTH))
        if arguments.png is not None:
            if plan.curve is None or plan.run is None:
                print(f"There is no schedule to draw: {arguments.png} is not written.", file=sys.stderr)
            else:
                picture(plan.curve, plan.run, arguments.png, "Learning rate")
    return USER_ERROR if plan.problems else DONE
