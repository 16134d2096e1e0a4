"""From a head for ImageNet-22K (fall 2011) to one for ImageNet-1K: the rows of the 1000 classes, by synset.

timm ships both orders. Its list of 21843 synsets has the order of the released heads with 21841 rows for
all classes but one, whose synset it lacks.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from iwin.errors import WeightsError

CLASSES_22K = 21841
CLASSES_1K = 1000
NOT_IN_THE_LIST = {"n04399382": 5564}  # teddy bear


def _synsets(name: str) -> list[str]:
    return (resources.files("timm.data") / "_info" / f"{name}_synsets.txt").read_text().split()


@cache
def rows_of_1k() -> tuple[int, ...]:
    """For every class of ImageNet-1K, in its order, its row in a released head of 21841 rows.

    WeightsError where the lists of the installed timm are not those that this was written for.
    """
    rows = {synset: row for row, synset in enumerate(_synsets("imagenet21k_goog"))} | NOT_IN_THE_LIST
    wanted = _synsets("imagenet")
    found = tuple(rows[synset] for synset in wanted if synset in rows)
    if len(wanted) != CLASSES_1K or len(set(found)) != CLASSES_1K or max(found) >= CLASSES_22K:
        raise WeightsError("the synset lists of the installed timm do not give the 1000 rows of a 22K head")
    return found
