"""How long a run lasts and what it costs, from a throughput that was given or measured; none is made up.

Validations, checkpoints and the start are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from iwin.errors import ConfigError, DataError
from iwin.tools.paper import V100_IMAGES_PER_S
from iwin.tools.report.documents import read_json
from iwin.train.run_plan import RunPlan

ALIKE = 0.01  # share by which the FLOPs of two models may differ that count as the same


@dataclass(frozen=True)
class Throughput:
    """Images a second that one device trains, and where the number is from."""

    images_per_s: float
    source: str


@dataclass(frozen=True)
class Time:
    """Of the training alone. device_hours: of all devices together."""

    images_per_s: float
    hours: float
    device_hours: float
    source: str


def given(images_per_s: float) -> Throughput:
    """From the command line. ConfigError for what is not above 0."""
    if not images_per_s > 0:
        raise ConfigError(f"--images-per-s must be above 0, got {images_per_s:g}")
    return Throughput(images_per_s, "given")


def of_run(place: Path, flops: int | None) -> Throughput:
    """As a run that has ended measured it. place: its folder, or its result.json. flops: of the planned model.

    ConfigError where the run does not tell, or its model is another; DataError where it cannot be read.
    """
    file = place / "result.json" if place.is_dir() else place
    if not file.is_file():
        raise DataError(
            f"--like {place}: there is no such file, or no result.json, which a run writes when it has ended"
        )
    result = read_json(file)
    found, ranks, theirs = result.number("images_per_s"), result.whole("ranks"), result.whole("flops")
    if found is None or ranks is None:
        raise ConfigError(f"--like {place}: that run did not measure images_per_s and ranks; give --images-per-s")
    if flops is None or theirs is None or abs(theirs - flops) > ALIKE * flops:
        said = [f"{one / 1e9:.2f}" if one is not None else "unknown" for one in (theirs, flops)]
        raise ConfigError(
            f"--like {place}: an image of that run took {said[0]} GFLOPs, and here {said[1]}: its speed says "
            "nothing of this one; give --images-per-s"
        )
    return Throughput(found / ranks, f"measured by {place}")


def time_of(plan: RunPlan, throughput: Throughput) -> Time:
    """The time of all updates on the devices of the plan, which compute equally fast."""
    images = plan.total * plan.global_batch
    hours = images / (throughput.images_per_s * plan.world) / 3600
    return Time(throughput.images_per_s, hours, hours * plan.world, throughput.source)


def unknown(model: str, image_size: object) -> str:
    """Why there is no time, with what the paper says of the model's speed."""
    inference = V100_IMAGES_PER_S.get((model, image_size)) if isinstance(image_size, int) else None
    said = "unknown: give --images-per-s (of one device, in training), or --like RUN, a short run of the same model"
    if inference is not None:
        said += f". The paper prints {inference} images/s of inference on a V100; training computes three times as much"
    return said
