"""Window partitions as products of one split per axis: pure functions on maps of tokens.

A split cuts one axis of length L into windows of M tokens. A block holds neighbours (Swin); a stride
holds every (L/M)-th token, so that a window is spread evenly over the whole axis (Iwin); whole is one
window of all L tokens. Nothing here knows how many axes there are: a map may be (L), (H, W) or (D, H, W).

Shapes: B batch, A.. the axes of the map (H, W), C channels, G windows of the map, N tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """How one axis is cut into windows.

    size: tokens of a window along the axis, M; None for the whole axis.
    dilated: False for M neighbours, True for every (L/M)-th token.
    """

    size: int | None
    dilated: bool = False

    def tokens(self, length: int) -> int:
        """Tokens of a window along an axis of `length`, M. ValueError where M does not divide it."""
        size = length if self.size is None else self.size
        if length % size:
            raise ValueError(f"an axis of {length} tokens is no multiple of the window's {size}: pad it first")
        return size

    def step(self, length: int) -> int:
        """Distance in tokens of the map between two neighbours of a window: 1, or L/M where dilated."""
        return length // self.tokens(length) if self.dilated else 1

    def positions(self, length: int) -> Tensor:
        """(windows, M) int64: the position on the axis of every token of every window."""
        size = self.tokens(length)
        count = length // size
        if self.dilated:  # token t of window w stands at t * (L/M) + w
            return torch.arange(length).view(size, count).t()
        return torch.arange(length).view(count, size)


def block(size: int) -> Split:
    """Windows of `size` neighbours."""
    return Split(size)


def stride(size: int) -> Split:
    """Windows of `size` tokens spread evenly over the axis: position i is in window i mod (L/size)."""
    return Split(size, dilated=True)


def whole() -> Split:
    """One window with every token of the axis."""
    return Split(None)


def _layout(axes: Sequence[int], splits: Sequence[Split]) -> tuple[list[int], list[int], list[int]]:
    """The view of a map with each axis in two, and where in it the window and the token axes are."""
    view, windows, tokens = [1], [], []  # the batch axis stands first
    for length, split in zip(axes, splits, strict=True):
        size = split.tokens(length)
        first = len(view)
        view += [size, length // size] if split.dilated else [length // size, size]
        windows.append(first + 1 if split.dilated else first)
        tokens.append(first if split.dilated else first + 1)
    return view, windows, tokens


def split_windows(x: Tensor, splits: Sequence[Split]) -> Tensor:
    """(B, A.., C) -> (B * G, N, C), by one permutation. Windows and tokens both count row by row.

    With strides along both axes this is the rearrangement of the Iwin paper (Eqs. 1 to 3, Algorithm 1)
    followed by its window partition.
    """
    axes = x.shape[1:-1]
    view, windows, tokens = _layout(axes, splits)
    x = x.reshape(x.shape[0], *view[1:], x.shape[-1])
    x = x.permute(0, *windows, *tokens, len(view))
    return x.reshape(-1, math.prod([view[t] for t in tokens]), x.shape[-1])


def merge_windows(x: Tensor, splits: Sequence[Split], axes: Sequence[int]) -> Tensor:
    """(B * G, N, C) -> (B, A.., C) for a map with `axes`: the inverse of `split_windows` (Eq. 5)."""
    view, windows, tokens = _layout(axes, splits)
    order = [0, *windows, *tokens, len(view)]
    inverse = [order.index(i) for i in range(len(order))]
    channels = x.shape[-1]
    x = x.reshape(-1, *(view[i] for i in windows), *(view[i] for i in tokens), channels)
    return x.permute(inverse).reshape(-1, *axes, channels)


def window_coordinates(splits: Sequence[Split], axes: Sequence[int]) -> Tensor:
    """(N, axes) int64: where the tokens of a window stand on the map, the first token of it at 0.

    Real distances on the map: under dilation neighbours in a window are L/M apart. They are the same in
    every window of a map.
    """
    along = [torch.arange(s.tokens(a)) * s.step(a) for s, a in zip(splits, axes, strict=True)]
    return torch.stack(torch.meshgrid(*along, indexing="ij"), dim=-1).flatten(0, -2)


def padding(axes: Sequence[int], size: int) -> list[int]:
    """How many tokens each axis lacks to the next multiple of `size`."""
    return [-length % size for length in axes]


def pad_end(x: Tensor, amounts: Sequence[int]) -> Tensor:
    """Zeros after the end of each axis of a (B, A.., C) map: right and below."""
    if not any(amounts):
        return x
    flat = [n for amount in reversed(amounts) for n in (0, amount)]
    return F.pad(x, [0, 0, *flat])


def regions(axes: Sequence[int], size: int, shift: int, device: torch.device | None = None) -> Tensor:
    """(A..) int64: which tokens of a map rolled back by `shift` were neighbours before (Swin, Fig. 4).

    Along each axis a window holds tokens of one region, but for the last, where those that came round
    from the start are another.
    """
    ids = torch.zeros(tuple(axes), dtype=torch.int64, device=device)
    for axis, length in enumerate(axes):
        position = torch.arange(length, device=device)
        along = (position >= length - size).long() + (position >= length - shift).long()
        ids = ids * 3 + along.view([-1 if a == axis else 1 for a in range(len(axes))])
    return ids


def separation_mask(ids: Tensor, splits: Sequence[Split]) -> Tensor:
    """(G, N, N) bool, True where two tokens of a window may attend to each other: equal `ids` (A..)."""
    ids_GN = split_windows(ids[None, ..., None], splits).squeeze(-1)
    return ids_GN[:, :, None] == ids_GN[:, None, :]


def inside(padded: Sequence[int], size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(A..) int64 over a map of `padded` axes: 1 in the part of `size` that holds real tokens, 0 elsewhere."""
    ids = torch.zeros(tuple(padded), dtype=torch.int64, device=device)
    ids[tuple(slice(length) for length in size)] = 1
    return ids


def key_mask(real: Tensor, splits: Sequence[Split]) -> Tensor:
    """(G, 1, N) bool, True for keys that are `real` (A.., not 0)."""
    return split_windows(real[None, ..., None], splits).squeeze(-1)[:, None, :] != 0
