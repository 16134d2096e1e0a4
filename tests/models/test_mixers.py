"""Every mixer and structure against the slow version, and what a token can reach (Theorem 3)."""

from __future__ import annotations

import pytest
import torch

import iwin
import oracles
from iwin.conf import options
from iwin.errors import ConfigError
from iwin.models.attend import attend
from iwin.models.block import Block
from iwin.models.mixers.interleaved import InterleavedAttention
from iwin.models.mixers.window import WindowAttention
from iwin.models.spec import BlockSpec

INTERLEAVED = {"_target_": "iwin.models.mixers.interleaved.InterleavedAttention"}
PLAIN = {"_target_": "iwin.models.mixers.window.WindowAttention"}
SHIFTED = {**PLAIN, "shift": True}
CONVOLUTION = {"_target_": "iwin.models.mixers.dwconv.DepthwiseConv"}


def make_block(spec: BlockSpec, attention: dict | None, local: dict | None, structure: str = "S1") -> Block:
    torch.manual_seed(0)
    block = Block(
        spec, attention=attention, local=local, structure=structure, mlp_ratio=2.0, drop_path=0.0, norm_eps=1e-5
    )
    return block.double().eval()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attend_is_softmax_attention(biased: bool, masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 4, 2, 5, 8)
    bias = torch.randn(2, 5, 5) if biased else None
    mask = torch.rand(2, 5, 5) > 0.4 if masked else None
    if mask is not None:
        mask |= torch.eye(5, dtype=torch.bool)
    assert torch.allclose(attend(q, k, v, bias, mask), oracles.attention(q, k, v, bias, mask), atol=1e-6)


def test_the_fused_kernel_gives_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    bias = torch.randn(2, 16, 16, requires_grad=True)
    mask = (torch.rand(3, 1, 16) > 0.4) | (torch.arange(16) == 0)
    found = []
    for threshold in (256, 1):
        monkeypatch.setattr("iwin.models.attend.CPU_FUSED_TOKENS", threshold)
        torch.manual_seed(1)
        q, k, v = (torch.randn(6, 2, 16, 8, requires_grad=True) for _ in range(3))
        bias.grad = None
        out = attend(q, k, v, bias, mask)
        out.square().sum().backward()
        found.append((out, q.grad, k.grad, v.grad, bias.grad))
    for explicit, fused in zip(*found, strict=True):
        assert torch.allclose(explicit, fused, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "cut"), [(InterleavedAttention, oracles.interleaved_windows), (WindowAttention, oracles.block_windows)]
)
def test_attention_mixers_attend_inside_their_windows(cls, cut) -> None:
    """The windows of the slow version, attention by hand on each, compared as sets of rows."""
    torch.manual_seed(0)
    mixer = cls(BlockSpec(dim=8, heads=2, window=3, feature_size=(6, 9))).double()
    x = torch.randn(1, 6, 9, 8, dtype=torch.float64)
    windows = cut(x[0], 3)
    qkv = mixer.qkv(windows).view(len(windows), 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
    mixed = oracles.attention(*qkv, None, None).transpose(1, 2).reshape(len(windows), 9, 8)
    assert torch.allclose(cut(mixer(x)[0], 3), mixer.proj(mixed))


@pytest.mark.parametrize("structure", ["S1", "S2", "S3"])
def test_structures_are_the_figures(structure: str) -> None:
    spec = BlockSpec(dim=8, heads=2, window=2, feature_size=(4, 4))
    block = make_block(spec, INTERLEAVED, CONVOLUTION, structure)
    x = torch.randn(2, 4, 4, 8, dtype=torch.float64)
    a, d, n = block.attn, block.local, block.norm1
    if structure == "S1":
        y = x + a(n(x)) + d(n(x))
    elif structure == "S2":
        y = (x + a(n(x))) + (x + d(n(x)))
    else:
        u = x + d(block.norm_local(x))
        y = u + a(n(u))
    assert torch.allclose(block(x), y + block.mlp(block.norm2(y)))


def influence(blocks: list[Block], size: tuple[int, int], at: tuple[int, int]) -> set[tuple[int, int]]:
    """The tokens whose change reaches token `at`, by its gradient."""
    x = torch.randn(1, *size, 8, dtype=torch.float64, requires_grad=True)
    y = x
    for block in blocks:
        y = block(y)
    y[0, at[0], at[1]].square().sum().backward()
    return {tuple(place) for place in x.grad[0].abs().sum(-1).nonzero().tolist()}


def predicted(steps: list, start: tuple[int, int]) -> set[tuple[int, int]]:
    """Tokens reached from `start` when each step lets a token see `step(i, j)`, itself included."""
    found = {start}
    for step in steps:
        found = set().union(*(step(i, j) | {(i, j)} for i, j in found))
    return found


SIZES = [((14, 14), 7, 3), ((12, 12), 4, 3), ((6, 12), 3, 5)]
PLACES = [(0, 0), (5, 5), (3, 2)]


@pytest.mark.parametrize(("size", "window", "kernel"), SIZES)
@pytest.mark.parametrize("at", PLACES)
def test_reach_is_what_index_arithmetic_says(size, window, kernel, at) -> None:
    spec = BlockSpec(dim=8, heads=2, window=window, kernel=kernel, feature_size=size)

    def attends(i, j):
        return oracles.reached_by_window(i, j, size, window, interleaved=True)

    def convolves(i, j):
        return oracles.reached_by_kernel(i, j, size, kernel)

    def parallel(i, j):
        return attends(i, j) | convolves(i, j)

    s1 = make_block(spec, INTERLEAVED, CONVOLUTION, "S1")
    s3 = make_block(spec, INTERLEAVED, CONVOLUTION, "S3")
    assert influence([s1], size, at) == predicted([parallel], at)
    assert influence([s1, s1], size, at) == predicted([parallel, parallel], at)
    # S3 convolves first and attends to the result; from the output back, the window comes first.
    assert influence([s3], size, at) == predicted([attends, convolves], at)


def test_theorem_3_inside_the_map_and_where_a_border_breaks_it() -> None:
    """K * M >= max(H, W) lets one attention and one convolution step link any two tokens, borders apart.

    One S1 block has its branches side by side, so it is no such composition: 57 of 196 tokens at H = W = 14,
    M = 7, K = 3. One S3 block and two S1 blocks are. At a border the kernel has lost a side: with H = 12,
    M = 4, K = 3 the condition holds (12 >= 12), and a corner still reaches only 121 of 144.
    """
    spec = BlockSpec(dim=8, heads=2, window=7, kernel=3, feature_size=(14, 14))
    s1, s3 = (make_block(spec, INTERLEAVED, CONVOLUTION, structure) for structure in ("S1", "S3"))
    assert len(influence([s1], (14, 14), (5, 5))) == 57
    assert len(influence([s1, s1], (14, 14), (5, 5))) == 196
    assert len(influence([s3], (14, 14), (5, 5))) == 196
    spec = BlockSpec(dim=8, heads=2, window=4, kernel=3, feature_size=(12, 12))
    s1 = make_block(spec, INTERLEAVED, CONVOLUTION)
    assert len(influence([s1, s1], (12, 12), (0, 0))) == 121
    assert len(influence([s1, s1], (12, 12), (5, 5))) == 144


@pytest.mark.parametrize("at", PLACES)
def test_reach_of_swin_blocks(at) -> None:
    size, window = (12, 12), 4
    spec = BlockSpec(dim=8, heads=2, window=window, kernel=None, feature_size=size)
    plain, shifted = make_block(spec, PLAIN, None), make_block(spec, SHIFTED, None)

    def sees(shift):
        return lambda i, j: oracles.reached_by_window(i, j, size, window, interleaved=False, shift=shift)

    assert influence([plain], size, at) == predicted([sees(0)], at)
    assert influence([plain, shifted], size, at) == predicted([sees(2), sees(0)], at)


@pytest.mark.parametrize("mixer", options("mixer"))
@pytest.mark.parametrize("model", ["iwin_micro", "swin_micro"])
def test_every_mixer_builds_learns_and_keeps_the_shape(mixer: str, model: str) -> None:
    """Globs conf/mixer: a new mixer is tested by being there."""
    net = iwin.create_model(model, num_classes=10, mixer=mixer, position="none")
    net(torch.randn(2, 3, 32, 32)).square().sum().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [name for name in without if not name.endswith("qkv.bias")]


def test_meaningless_combinations_are_refused() -> None:
    with pytest.raises(ConfigError, match="structure S3 arranges an attention and a local mixer"):
        iwin.create_model("swin_micro", structure="S3")
    with pytest.raises(ConfigError, match="position relative lives in the attention"):
        iwin.create_model("iwin_micro", mixer="dwconv", position="relative")
    with pytest.raises(ConfigError, match="mix no tokens"):
        iwin.create_model("iwin_micro", mixer="dwconv", kernel_sizes=[3, None, 3, 3])
    with pytest.raises(ConfigError, match="head width"):
        iwin.create_model("iwin_micro", embed_dim=6, num_heads=[1, 1, 1, 1], position="rotary")
