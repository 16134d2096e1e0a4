"""Partitions are permutations, and the paper's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from iwin.models.windows import (
    Split,
    block,
    inside,
    key_mask,
    merge_windows,
    pad_end,
    padding,
    regions,
    separation_mask,
    split_windows,
    stride,
    whole,
    window_coordinates,
)


def numbered(*axes: int, channels: int = 2) -> torch.Tensor:
    count = torch.Size(axes).numel()
    return torch.arange(count * channels, dtype=torch.float32).view(1, *axes, channels)


@pytest.mark.parametrize(("height", "width", "window"), [(14, 14, 7), (8, 12, 4), (6, 3, 3), (4, 4, 4), (5, 10, 1)])
def test_interleaved_windows_are_the_papers(height: int, width: int, window: int) -> None:
    x = numbered(height, width)
    split = stride(window), stride(window)
    assert torch.equal(split_windows(x, split), oracles.interleaved_windows(x[0], window))


@pytest.mark.parametrize(("height", "width", "window"), [(14, 14, 7), (8, 12, 4), (6, 3, 3)])
def test_block_windows_are_neighbours(height: int, width: int, window: int) -> None:
    x = numbered(height, width)
    assert torch.equal(split_windows(x, (block(window), block(window))), oracles.block_windows(x[0], window))


@pytest.mark.parametrize(("length", "window"), [(14, 7), (12, 4), (12, 3), (7, 7), (9, 1)])
def test_equations_1_and_5_are_inverse_and_lemma_1_holds(length: int, window: int) -> None:
    moved = [oracles.interleaved_place(i, length, window) for i in range(length)]
    assert sorted(moved) == list(range(length))
    assert [oracles.restored_place(m, length, window) for m in moved] == list(range(length))
    positions = stride(window).positions(length)
    for w, row in enumerate(positions.tolist()):
        assert all(i % (length // window) == w for i in row)  # Eqs. 2 and 3
        assert row == sorted(row)


splits = st.sampled_from([block, stride])


@settings(deadline=None, max_examples=60)
@given(
    axes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), splits), min_size=1, max_size=3),
    batch=st.integers(1, 3),
)
def test_merge_undoes_split_on_any_number_of_axes(axes, batch) -> None:
    lengths = [size * count for size, count, _ in axes]
    chosen = [kind(size) for size, _, kind in axes]
    x = torch.randn(batch, *lengths, 3)
    windows = split_windows(x, chosen)
    assert windows.shape == (
        batch * torch.Size([c for _, c, _ in axes]).numel(),
        torch.Size([s for s, _, _ in axes]).numel(),
        3,
    )
    assert torch.equal(merge_windows(windows, chosen, lengths), x)


def test_whole_holds_every_frame_of_a_video() -> None:
    x = numbered(3, 4, 4, channels=1)
    windows = split_windows(x, (whole(), stride(2), stride(2)))
    assert windows.shape == (4, 12, 1)
    by_frame = torch.stack([split_windows(x[:, f], (stride(2), stride(2))) for f in range(3)], dim=1)
    assert torch.equal(windows, by_frame.flatten(1, 2))


def test_a_window_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="5 tokens is no multiple of the window's 2"):
        split_windows(numbered(5, 4), (block(2), block(2)))


@pytest.mark.parametrize("kind", [block, stride])
def test_coordinates_are_the_places_on_the_map(kind) -> None:
    height, width, window = 6, 12, 3
    chosen = kind(window), kind(window)
    place = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)[None]
    real = split_windows(place, chosen)  # (G, N, 2): where every token really is
    assert torch.equal(real - real[:, :1], window_coordinates(chosen, (height, width)).expand_as(real))


def test_padding_is_right_and_below() -> None:
    x = torch.ones(1, 5, 6, 1)
    padded = pad_end(x, padding((5, 6), 4))
    assert padded.shape == (1, 8, 8, 1)
    assert torch.equal(padded[0, :, :, 0], inside((8, 8), (5, 6)).float())


def test_shifted_windows_only_see_old_neighbours() -> None:
    size, window, shift = (8, 12), 4, 2
    mask = separation_mask(regions(size, window, shift), (block(window), block(window)))
    place = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij"), -1)[None]
    rolled = split_windows(torch.roll(place, (-shift, -shift), (1, 2)), (block(window), block(window)))
    for w in range(mask.shape[0]):
        for i in range(window * window):
            a, b = rolled[w, i].tolist()
            seen = {tuple(rolled[w, j].tolist()) for j in range(window * window) if mask[w, i, j]}
            assert seen == oracles.reached_by_window(a, b, size, window, interleaved=False, shift=shift)


def test_every_window_of_a_padded_map_keeps_a_real_key() -> None:
    for kind in (block, stride):
        for height in range(1, 20):
            for window in range(1, 9):
                padded = [height + padding((height,), window)[0]] * 2
                mask = key_mask(inside(padded, (height, height)), (kind(window), kind(window)))
                assert mask.any(-1).all(), (kind, height, window)


def test_step_is_the_dilation() -> None:
    assert Split(7).step(14) == 1
    assert Split(7, dilated=True).step(14) == 2
