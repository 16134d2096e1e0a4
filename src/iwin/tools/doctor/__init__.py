"""`iwin doctor`: looks at a machine before a job, says what is wrong and what to do."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from iwin.tools.doctor import devices, folders, limits, network, software
from iwin.tools.doctor.finding import Check, Finding, ok, report
from iwin.tools.doctor.job import configure, job_of

EXIT_WRONG = 1


def add_parser(subparsers: Any) -> None:
    """The subcommand `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="check this machine before a job",
        description="Look at this machine for a training job, print a line for each thing (ok, warning, wrong) and "
        "what to do about it. The exit code is 1 where anything is wrong. Nothing is left behind, but what data at a "
        "URL leaves in its cache.",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="OVERRIDE",
        help="the job's command line, as train.py takes it: data=in1k data.num_workers=12 (default: the digits)",
    )
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where runs go (default: paths.runs_dir)")
    parser.add_argument("--gpu", action="store_true", help="a machine without a GPU is wrong")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `iwin doctor`. ConfigError where the overrides are no configuration."""
    config = configure(arguments.data)
    job = job_of(config, arguments.runs)
    checks = [
        *software.checks(),
        *devices.checks(job, gpu=arguments.gpu),
        *limits.checks(job),
        Check("data", lambda: data(config)),
        *folders.checks(job),
        *network.checks(job),
    ]
    return 0 if report(checks) else EXIT_WRONG


def data(config: DictConfig) -> Finding:
    """The data set: there, indexed, as configured, and its first and last images readable. Raises as `check`."""
    from iwin.train.build import build_data  # here, as it imports Lightning, which takes seconds

    module = build_data(config)
    counts = []
    for split, dataset in (("train", module.train_dataset), ("val", module.val_dataset)):
        for index in (0, len(dataset) - 1):
            dataset.encoded(index)
        counts.append(f"{len(dataset):,} images to {split}")
    return ok(f"{config.data.name}, {' and '.join(counts)}, {module.num_classes} classes")
