"""The slow, obvious versions that fast code is held to: loops over indices, as the papers write them."""

from __future__ import annotations

import torch
from torch import Tensor


def interleaved_place(i: int, length: int, window: int) -> int:
    """Where the rearrangement moves row (or column) i of an axis (Iwin, Eq. 1)."""
    groups = length // window
    return (i % groups) * window + i // groups


def restored_place(moved: int, length: int, window: int) -> int:
    """The inverse (Iwin, Eq. 5)."""
    return (moved % window) * (length // window) + moved // window


def interleaved_windows(x: Tensor, window: int) -> Tensor:
    """(H, W, C) -> (G, N, C): rearrange by Eq. 1 token by token, then cut into ordinary windows (Eq. 2)."""
    height, width, _ = x.shape
    moved = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            moved[interleaved_place(i, height, window), interleaved_place(j, width, window)] = x[i, j]
    return block_windows(moved, window)


def block_windows(x: Tensor, window: int) -> Tensor:
    """(H, W, C) -> (G, N, C), windows of neighbours, row by row."""
    height, width, _ = x.shape
    out = []
    for top in range(0, height, window):
        for left in range(0, width, window):
            tokens = [x[top + a, left + b] for a in range(window) for b in range(window)]
            out.append(torch.stack(tokens))
    return torch.stack(out)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v for (B * G, h, N, d), query by query, key by key."""
    out = torch.zeros_like(v)
    windows = 1 if mask is None else mask.shape[0]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                scores = []
                for j in range(k.shape[2]):
                    score = (q[b, h, i] * k[b, h, j]).sum() / q.shape[3] ** 0.5
                    if bias is not None:
                        score = score + bias[h, i, j]
                    if mask is not None and not mask[b % windows].expand(q.shape[2], -1)[i, j]:
                        score = torch.tensor(float("-inf"))
                    scores.append(score)
                weights = torch.stack(scores).softmax(0)
                out[b, h, i] = sum(w * v[b, h, j] for j, w in enumerate(weights))
    return out


def reached_by_window(i: int, j: int, size: tuple[int, int], window: int, *, interleaved: bool, shift: int = 0) -> set:
    """The tokens that attention lets influence token (i, j) of a map whose sides the window divides."""
    height, width = size
    groups = height // window, width // window
    found = set()
    for a in range(height):
        for b in range(width):
            if interleaved:
                same = a % groups[0] == i % groups[0] and b % groups[1] == j % groups[1]
            else:
                # Undo the roll: token (i, j) stands at (i - shift) mod H, and meets those of its window that
                # did not come round the border on the way.
                at, other = ((i - shift) % height, (j - shift) % width), ((a - shift) % height, (b - shift) % width)
                same = at[0] // window == other[0] // window and at[1] // window == other[1] // window
                same = same and (i >= shift) == (a >= shift or shift == 0) if shift else same
                same = same and (j >= shift) == (b >= shift) if shift else same
            if same:
                found.add((a, b))
    return found


def reached_by_kernel(i: int, j: int, size: tuple[int, int], kernel: int) -> set:
    """The tokens under a K x K kernel centred on (i, j)."""
    half = kernel // 2
    return {
        (a, b)
        for a in range(max(0, i - half), min(size[0], i + half + 1))
        for b in range(max(0, j - half), min(size[1], j + half + 1))
    }
