"""`iwin bench data`: images a second on one core, ours beside timm, torchvision and webdataset; and how it agrees."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from iwin.errors import ConfigError, whole
from iwin.tools.bench.agreement import all_differences
from iwin.tools.bench.images import BenchImages, find_or_make
from iwin.tools.bench.pipelines import OURS, WAYS, jobs
from iwin.tools.bench.rounds import Spread, Turns, one_core, ratios, take_turns
from iwin.tools.bench.stages import stage_milliseconds
from iwin.tools.bench.tables import print_tables

BATCH = 64
ROUND = 256  # images of one way in one round
COMPARED = 200  # images whose pixels are compared
PACKAGES = (
    *("torch", "torchvision", "timm", "webdataset", "pillow"),
    *("simplejpeg", "opencv-python-headless", "numpy"),
)


def add_command(commands: Any) -> None:
    """Add `data` to the commands of `iwin bench`."""
    data = commands.add_parser(
        "data",
        help="the image pipeline, beside timm's, torchvision's and webdataset's",
        description="Measure images a second on one core for the same JPEGs and the same work, in one process and "
        "taking turns; the time of each stage of ours; and how far its pixels are from Pillow's and timm's. The "
        "images are made of photographs that come with scikit-image: pip install 'iwin[bench]'.",
    )
    data.add_argument("--images", type=int, default=1000, metavar="N", help="images to make (default: 1000)")
    data.add_argument("--rounds", type=int, default=8, metavar="N", help=f"of {ROUND} images for each (default: 8)")
    data.add_argument("--folder", type=Path, metavar="DIR", help="keep the images there, or take them (default: not)")
    data.add_argument("--seed", type=int, default=0, help="of the images (default: 0)")
    data.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    data.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `iwin bench data`. Raises ConfigError for values and folders that cannot be used."""
    whole("--rounds", arguments.rounds, 1)
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise ConfigError(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    with tempfile.TemporaryDirectory(prefix="iwin-bench-") as temporary:
        images = find_or_make(arguments.folder or Path(temporary), arguments.images, arguments.seed)
        figures = measure(images, arguments.rounds)
    print_tables(figures)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(images: BenchImages, rounds: int) -> dict[str, Any]:
    """All figures, as plain values: the machine, the images, each job's speeds and stages, and the differences."""
    batch = min(BATCH, images.number)
    batches = min(ROUND, images.number) // batch
    found: dict[str, Any] = {}
    with one_core() as pinned:
        _warm(images)
        for job in jobs():
            turns = take_turns({name: way(images, job, batch) for name, way in WAYS.items()}, rounds, batches)
            stages = stage_milliseconds(images, job, batch, batches * rounds)
            found[job.name] = {"ways": _facts(turns), "stages_ms": stages}
        differences = all_differences(images, min(COMPARED, images.number))
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "pinned": pinned},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "images": images.facts(),
        "batch": batch,
        "images_a_round": batch * batches,
        "rounds": rounds,
        "jobs": found,
        "differences": differences,
    }


def _warm(images: BenchImages) -> None:
    """Read every file once, so that none of the ways waits for a disk."""
    for path in images.root.rglob("*"):
        if path.is_file():
            path.read_bytes()


def _facts(turns: dict[str, Turns]) -> dict[str, Any]:
    return {
        name: {
            "images": turn.images,
            "images_per_s": Spread.of(turn.images_per_second)._asdict(),
            "ours_to_it": Spread.of(ratios(turns[OURS], turn))._asdict(),
            "share_of_core": turn.share,
            "seconds_worked": turn.worked,
            "seconds_passed": turn.passed,
        }
        for name, turn in turns.items()
    }


def _processor() -> str:
    """The processor's name: Linux tells it in a file, others through the platform module."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
