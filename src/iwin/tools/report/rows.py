"""Rows of a table: cells that differ in the seed alone, gathered into one, with the paper's number beside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iwin.tools.paper import IMAGE_SIZE, Ablation
from iwin.tools.report.cells import FINISHED, Cell
from iwin.tools.report.runs import Result
from iwin.tools.report.statistic import Statistic, statistic


@dataclass(frozen=True)
class Paper:
    """The paper's top-1 in % and where it stands; `ablation` is the whole row where it is one of Table VII."""

    top1: float
    source: str
    ablation: Ablation | None = None


@dataclass(frozen=True)
class Row:
    """Cells that differ in the seed alone. `label` is the name without what all rows of the section share."""

    name: str
    label: str
    cells: tuple[Cell, ...]
    paper: Paper | None

    @property
    def counted(self) -> tuple[Cell, ...]:
        """The finished cells, one for each seed: the same seed again is no new evidence; the last of them counts."""
        return tuple({cell.seed: cell for cell in self.cells if cell.result is not None}.values())

    @property
    def repeats(self) -> tuple[Cell, ...]:
        """Finished cells that another of the same seed stands for."""
        counted = self.counted
        return tuple(cell for cell in self.cells if cell.result is not None and cell not in counted)

    @property
    def top1(self) -> Statistic | None:
        """Top-1 of the last validation, in %."""
        return self._over(lambda result: result.top1)

    @property
    def best_top1(self) -> Statistic | None:
        """Top-1 of the best validation, in %."""
        return self._over(lambda result: result.best_top1)

    @property
    def top1_before(self) -> Statistic | None:
        """Top-1 before any update, in %."""
        return self._over(lambda result: result.top1_before)

    @property
    def parameters(self) -> Statistic | None:
        """Parameters of the model."""
        return self._over(lambda result: result.parameters)

    @property
    def flops(self) -> Statistic | None:
        """Multiply-adds of one image."""
        return self._over(lambda result: result.flops)

    @property
    def images_per_s(self) -> Statistic | None:
        """Images/s of training, all devices together."""
        return self._over(lambda result: result.images_per_s)

    @property
    def peak_memory_bytes(self) -> float | None:
        """The largest peak of all."""
        peaks = [cell.result.peak_memory_bytes for cell in self.counted if cell.result is not None]
        return max((peak for peak in peaks if peak is not None), default=None)

    @property
    def comparable(self) -> bool:
        """Whether ours is measured on what the paper's number is of."""
        runs = [cell.run for cell in self.counted if cell.run is not None]
        if self.paper is None or not runs or not all(run.on_imagenet_1k for run in runs):
            return False
        row = self.paper.ablation
        return row is None or all(run.model == row.model and run.image_size == IMAGE_SIZE for run in runs)

    @property
    def difference(self) -> float | None:
        """Our mean top-1 less the paper's, in points; None where the two are not of the same."""
        top1 = self.top1
        return top1.mean - self.paper.top1 if self.comparable and self.paper and top1 else None

    @property
    def standing(self) -> str:
        """`finished`; of one cell how it stands; of several how many are finished, and how the others stand."""
        others = [cell for cell in self.cells if cell.state != FINISHED]
        if not others:
            return FINISHED
        if len(self.cells) == 1:
            return others[0].standing
        said = "; ".join(f"seed {cell.seed or '?'} {cell.standing}" for cell in others)
        return f"{len(self.cells) - len(others)} of {len(self.cells)} finished; {said}"

    def _over(self, value: Callable[[Result], float | None]) -> Statistic | None:
        return statistic(value(cell.result) for cell in self.counted if cell.result is not None)


def gather(cells: Sequence[Cell], key: Callable[[Cell], object]) -> list[list[Cell]]:
    """Cells of the same key together, in the order in which the keys come first.

    Cells on different data are never one group. A cell of unknown data, as of a run that never began, joins the
    first group of its key.
    """
    groups: dict[tuple[object, tuple[str, ...]], list[Cell]] = {}
    first: dict[object, tuple[str, ...]] = {}
    for cell in sorted(cells, key=lambda cell: not _hashes(cell)):
        of = key(cell)
        hashes = _hashes(cell) or first.get(of, ())
        first.setdefault(of, hashes)
        groups.setdefault((of, hashes), []).append(cell)
    order = {id(cell): index for index, cell in enumerate(cells)}
    gathered = [sorted(group, key=lambda cell: order[id(cell)]) for group in groups.values()]
    return sorted(gathered, key=lambda group: order[id(group[0])])


def _hashes(cell: Cell) -> tuple[str, ...]:
    return () if cell.run is None else cell.run.data_hashes
