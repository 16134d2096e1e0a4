"""The figures of `iwin bench data` as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from iwin.tools.bench.pipelines import OURS
from iwin.tools.bench.stages import STAGES

BAR = 20  # characters of the fastest
BUSY = 0.95  # share of the core below which it is said that something else ran on it


def print_tables(figures: dict[str, Any]) -> None:
    """Print what iwin.tools.bench.data.measure found: in colour on a terminal, plain elsewhere."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=110)  # a file or a pipe has no width of its own
    machine, images = figures["machine"], figures["images"]
    pinned = "one core" if machine["pinned"] else "one process that no system call could keep on one core"
    console.print(
        f"{images['number']} JPEGs, on average {images['mean_pixels']:,.0f} pixels and "
        f"{images['mean_bytes'] / 1000:.0f} KB (quality {images['quality']}, 4:2:0), to 224 x 224, bicubic. "
        f"{machine['processor']}, {machine['cores']} cores, of which {pinned} works with one thread. "
        f"Counted are the seconds that a core worked for the process. Medians of {figures['rounds']} rounds of "
        f"{figures['images_a_round']} images, with the smallest and the largest; the ways take turns after every "
        f"batch of {figures['batch']}."
    )
    for name, job in figures["jobs"].items():
        console.print(_speeds(name, job["ways"]))
    console.print(
        "Ours and timm with its own loader hand over uint8 and normalise on the device, which is counted for neither; "
        "the second line counts it for ours. The others normalise here. Random erasing is counted nowhere. "
        "RandAugment has the same draws everywhere: timm's on Pillow images, ours on arrays."
    )
    console.print(_stages(figures["jobs"]))
    console.print(_differences(figures["differences"]))
    least = min(way["share_of_core"] for job in figures["jobs"].values() for way in job["ways"].values())
    if least < BUSY:
        console.print(
            f"Others ran on this core as well and left {least:.0%} of it to one of the ways. Their time is not "
            "counted, but they share caches and memory: compare the ratios, and images a second on an idle machine."
        )


def _speeds(title: str, ways: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("images/s", justify="right")
    table.add_column("", justify="right", style="dim")
    table.add_column("ours to it", justify="right")
    table.add_column("", justify="right", style="dim")
    table.add_column("")
    fastest = max(way["images_per_s"]["median"] for way in ways.values())
    for name, way in ways.items():
        speed, ratio = way["images_per_s"], way["ours_to_it"]
        table.add_row(
            name,
            f"{speed['median']:.0f}",
            f"{speed['least']:.0f} to {speed['most']:.0f}",
            "" if name == OURS else f"{ratio['median']:.2f}",
            "" if name == OURS else f"{ratio['least']:.2f} to {ratio['most']:.2f}",
            "█" * round(BAR * speed["median"] / fastest),
        )
    return table


def _stages(jobs: dict[str, Any]) -> Table:
    table = Table("ours, ms an image", *STAGES, "whole")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, job in jobs.items():
        stages = job["stages_ms"]
        cells = [f"{stages[stage]:.2f}" for stage in STAGES]
        table.add_row(name, *cells, f"{sum(stages.values()):.2f}")
    return table


def _differences(differences: dict[str, Any]) -> Table:
    table = Table("grey levels, of 255", "against")
    for column in ("mean difference", "largest", "values that differ"):
        table.add_column(column, justify="right")
    for name, found in differences.items():
        table.add_row(name, found["against"], f"{found['mean']:.3f}", str(found["largest"]), f"{found['share']:.2%}")
    return table
