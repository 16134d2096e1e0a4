"""The rows of the 1000 classes in a head of 21841."""

from __future__ import annotations

from importlib import resources

import pytest

from iwin.weights.imagenet22k import CLASSES_22K, rows_of_1k


def synsets(name: str) -> list[str]:
    return (resources.files("timm.data") / "_info" / f"{name}_synsets.txt").read_text().split()


def test_they_are_1000_distinct_rows_of_the_head() -> None:
    rows = rows_of_1k()
    assert len(rows) == len(set(rows)) == 1000
    assert 0 <= min(rows) <= max(rows) < CLASSES_22K == 21841


@pytest.mark.parametrize(("index", "row"), [(0, 359), (1, 368), (2, 460), (850, 5564)])
def test_classes_that_are_known(index: int, row: int) -> None:
    """Tench, goldfish, great white shark; the teddy bear, whose synset the list lacks."""
    assert rows_of_1k()[index] == row


def test_every_other_class_is_found_by_its_synset() -> None:
    order, wanted = synsets("imagenet21k_goog"), synsets("imagenet")
    assert [i for i, row in enumerate(rows_of_1k()) if order[row] != wanted[i]] == [wanted.index("n04399382")]
