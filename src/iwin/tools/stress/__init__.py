"""`iwin stress`: kill a short training at random moments and see that nothing is lost."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand `stress`."""
    parser = subparsers.add_parser(
        "stress",
        help="kill a short training again and again, and compare it with an undisturbed one",
        description="Trains iwin_micro on the digits once undisturbed, then killed by SIGKILL at random moments and "
        "started again until it ends; weights, samples and metrics.csv must be the same bit for bit.",
    )
    parser.add_argument("--kills", type=int, default=50, help="how many (50)")
    parser.add_argument("--every-update", action="store_true", help="instead: a run each, killed after each update")
    parser.add_argument("--workers", type=int, default=0, help="data workers (0)")
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--accumulate", type=int, default=2, help="micro-batches of 16 images in an update (2)")
    parser.add_argument("--epochs", type=int, default=2, help="length of a run, of 8 updates each (2)")
    parser.add_argument("--save-every", type=int, default=4, help="updates between checkpoints, besides epochs (4)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, and of the training (0)")
    parser.add_argument("--keep", metavar="DIR", help="leave all runs there; else they go, unless something differs")
    parser.add_argument("overrides", nargs="*", help="more configuration of the runs, as train.py takes it")
    parser.set_defaults(func=_main)


def _main(arguments: argparse.Namespace) -> int:
    from iwin.tools.stress.trial import stress  # what it imports takes seconds that other commands need not wait

    return stress(arguments)
