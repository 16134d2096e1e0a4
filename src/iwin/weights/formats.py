"""The names that weights go by: ours, those of the released Swin and Iwin models, and timm's Swin.

Only what stands in the tables here differs; all other names are the same everywhere. What depends on
the window alone (relative_position_index, attn_mask) is recomputed by the model and has no name of ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from torch import Tensor

from iwin.errors import WeightsError

OURS, RELEASED, TIMM, AS_GIVEN = "ours", "released", "timm", "its own"
NAMINGS = (OURS, RELEASED, TIMM)
# Theirs and ours. ^ stands for the beginning of a name.
_RELATIVE = (".attn.relative_position_bias_table", ".attn.positions.relative.table")
_ABSOLUTE = ("^absolute_pos_embed", "^positions.absolute.table")
_PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    RELEASED: (("^head.", "^head.fc."), (".dwconv.depthwise.", ".local.conv."), _RELATIVE, _ABSOLUTE),
    TIMM: (_RELATIVE,),
}
_RECOMPUTED = (".relative_position_index", ".attn_mask")
_DOWNSAMPLE = re.compile(r"^layers\.(\d+)\.downsample\.")
_BLOCK = r"(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)|attn\.relative_position_bias_table"
_COMMON = r"patch_embed\.(proj|norm)\.(weight|bias)|norm\.(weight|bias)"
_GRAMMAR = {
    RELEASED: re.compile(
        rf"{_COMMON}|head\.(weight|bias)|absolute_pos_embed"
        rf"|layers\.\d+\.blocks\.\d+\.({_BLOCK}|dwconv\.depthwise\.(weight|bias))"
        r"|layers\.\d+\.downsample\.((norm|conv)\.(weight|bias)|reduction\.weight)"
    ),
    TIMM: re.compile(
        rf"{_COMMON}|head\.fc\.(weight|bias)|layers\.\d+\.blocks\.\d+\.({_BLOCK})"
        r"|layers\.\d+\.downsample\.(norm\.(weight|bias)|reduction\.weight)"
    ),
}


def naming_of(names: Collection[str]) -> str:
    """Whose names these are, `ours`, `released` or `timm`; `ours` where nothing tells them apart."""
    stages = [int(match[1]) for name in names if (match := re.match(r"layers\.(\d+)\.blocks\.", name))]
    # timm counts a downsampling to the stage that it leads to: the last stage has one, the first has none.
    last = f"layers.{max(stages, default=0)}.downsample."
    relative = any(name.endswith(_RELATIVE[0]) for name in names)
    if max(stages, default=0) > 0 and any(name.startswith(last) for name in names):
        return TIMM
    if relative and any(name.startswith("head.fc.") for name in names):
        return TIMM
    released = any(".dwconv.depthwise." in name or is_recomputed(name) for name in names)
    return RELEASED if relative or released or {"head.weight", "absolute_pos_embed"} & set(names) else OURS


def is_recomputed(name: str) -> bool:
    """Whether a model makes this entry itself, from its window."""
    return name.endswith(_RECOMPUTED)


def to_ours(name: str, naming: str) -> str:
    """The name that we have for an entry that is called `name` in another naming."""
    if naming == TIMM:
        name = _DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) - 1}.downsample.", name)
    return _rename(name, [(theirs, ours) for theirs, ours in _PAIRS.get(naming, ())])


def from_ours(name: str, naming: str) -> str:
    """What `name` of ours is called in another naming. WeightsError where that has no name for it."""
    theirs = _rename(name, [(ours, theirs) for theirs, ours in _PAIRS.get(naming, ())])
    if naming == TIMM:
        theirs = _DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", theirs)
    if naming in _GRAMMAR and not _GRAMMAR[naming].fullmatch(theirs):
        raise WeightsError(f"{name} has no name among those of {naming} models: they have no such part")
    return theirs


def _rename(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    text = "^" + name
    for old, new in pairs:
        text = text.replace(old, new, 1)
    return text[1:]


def absolute_to_ours(table_1LC: Tensor, size: tuple[int, int], known: tuple[int, int] | None) -> Tensor:
    """A released absolute embedding (1, L, C) as ours, (1, H, W, C).

    The rows do not tell the map's height and width. `known` is the map's size where the weights' own
    configuration tells it; else the map is taken to be square, as in all released models, and if L is
    no square, to be that of the model, `size`. WeightsError where L fits none of them.
    """
    count = table_1LC.shape[1] if table_1LC.ndim == 3 else 0
    side = math.isqrt(count)
    candidates = [known] if known is not None else [(side, side), size]
    for height, width in candidates:
        if count and height * width == count:
            return table_1LC.reshape(1, height, width, -1)
    raise WeightsError(
        f"absolute_pos_embed is {tuple(table_1LC.shape)}: no (1, rows, channels) with the rows of a square map, or of "
        f"the model's {size[0]} x {size[1]}"
    )


def absolute_from_ours(table_1HWC: Tensor) -> Tensor:
    """Our absolute embedding (1, H, W, C) as the released models have it, (1, H * W, C)."""
    return table_1HWC.flatten(1, 2)
