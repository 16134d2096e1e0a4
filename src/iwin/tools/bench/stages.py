"""Where the time of our pipeline goes: its own functions are timed while it makes batches, by the core's work."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import iwin.data.dataset
import iwin.data.encoded
from iwin.data.augment import TrainTransform
from iwin.tools.bench.images import BenchImages
from iwin.tools.bench.pipelines import Job, our_dataset, our_sampler

# In the order of the pipeline; draws: the header, seeding, the crop's and the flip's draws, and the flip.
STAGES = ("read", "decode", "crop and resize", "RandAugment", "draws", "collate")


class Stopwatch:
    """Seconds inside functions, by stage; what a function spends in another timed one counts for both."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with its time added to `stage`."""

        def call(*args: Any, **keys: Any) -> Any:
            began = time.process_time()
            try:
                return function(*args, **keys)
            finally:
                self.seconds[stage] += time.process_time() - began

        return call

    @contextmanager
    def inside(self, owner: Any, name: str, stage: str) -> Iterator[None]:
        """Time the function `name` of `owner` as long as the context lasts."""
        with patch.object(owner, name, self.timed(stage, getattr(owner, name))):
            yield


def stage_milliseconds(images: BenchImages, job: Job, batch: int, batches: int) -> dict[str, float]:
    """Milliseconds an image by STAGES, over `batches` batches after one that is not counted; the sum is the whole."""
    dataset = our_dataset(images, job)
    tickets = itertools.chain.from_iterable(our_sampler(len(dataset), batch, epoch) for epoch in itertools.count())
    dataset.__getitems__(next(tickets))
    watch = Stopwatch()
    with ExitStack() as timed:
        if isinstance(dataset.transform, TrainTransform):
            steps = [watch.timed("RandAugment", step) for step in dataset.transform.steps]
            timed.enter_context(patch.object(dataset.transform, "steps", steps))
        timed.enter_context(watch.inside(dataset, "read", "read"))
        timed.enter_context(watch.inside(dataset, "encoded", "opened"))
        timed.enter_context(watch.inside(dataset, "transform", "transformed"))
        timed.enter_context(watch.inside(iwin.data.dataset, "seed_at", "seeded"))
        timed.enter_context(watch.inside(iwin.data.encoded, "upper_rows", "decode"))
        timed.enter_context(watch.inside(iwin.data.encoded.JpegImage, "resized", "resized"))
        began = time.process_time()
        for ticket in itertools.islice(tickets, batches):
            dataset.__getitems__(ticket)
        whole = time.process_time() - began
    seconds = watch.seconds
    images_made = seconds["opened"] + seconds["seeded"] + seconds["transformed"]
    found = {
        "read": seconds["read"],
        "decode": seconds["decode"],
        "crop and resize": seconds["resized"] - seconds["decode"],
        "RandAugment": seconds["RandAugment"],
        "draws": images_made - seconds["read"] - seconds["resized"] - seconds["RandAugment"],
        "collate": whole - images_made,
    }
    return {stage: 1000 * found[stage] / (batch * batches) for stage in STAGES}
