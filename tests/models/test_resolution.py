"""Images of any height and width: windows, padding, masks, and a built model that takes another size."""

from __future__ import annotations

import pytest
import torch

import iwin
import oracles
from iwin.errors import ConfigError
from iwin.models.mixers.interleaved import InterleavedAttention
from iwin.models.mixers.window import WindowAttention
from iwin.models.spec import BlockSpec, map_sizes, resolve_window

SMALL = {"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "num_classes": 5}


def plan(img_size, window_size):
    with torch.device("meta"):
        return iwin.create_model("iwin_t", img_size=img_size, window_size=window_size).plan


def test_a_stage_as_released() -> None:
    """A 4 x 7 map with M = 7 has window 4, is padded to 4 x 8, and has a convolution."""
    stage = plan([16, 28], 7)[0]
    assert (stage.size, stage.window, stage.padded, stage.is_global) == ((4, 7), 4, (4, 8), False)


@pytest.mark.parametrize(("side", "window"), [(224, 7), (384, 12), (512, 16)])
def test_the_last_stage_is_global_at_the_papers_sizes_but_for_1024(side: int, window: int) -> None:
    assert [stage.is_global for stage in plan(side, window)] == [False, False, False, True]
    assert [stage.is_global for stage in plan(1024, 16)] == [False] * 4


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (320, 480), (300, 400), (33, 57), (640, 1024)])
def test_auto_has_the_least_padding_and_the_largest_window_of_equals(size: tuple[int, int]) -> None:
    def padded(window: int) -> int:
        total = 0
        for height, width in map_sizes(size, 4):
            side = min(window, height, width)
            rows, columns = height, width
            while rows % side:
                rows += 1
            while columns % side:
                columns += 1
            total += rows * columns - height * width
        return total

    chosen = resolve_window("auto", size, 4)
    assert 7 <= chosen <= 16
    for window in range(7, 17):
        assert (padded(chosen), -chosen) <= (padded(window), -window)


@pytest.mark.parametrize("cls", [InterleavedAttention, WindowAttention])
@pytest.mark.parametrize("masked", [True, False])
def test_padding_is_seen_or_hidden_as_asked(cls, masked: bool) -> None:
    torch.manual_seed(0)
    size, window = (5, 7), 3
    mixer = cls(BlockSpec(dim=8, heads=2, window=window, feature_size=size, mask_padding=masked)).double()
    x = torch.randn(1, *size, 8, dtype=torch.float64)
    padded = torch.zeros(6, 9, 8, dtype=torch.float64)
    padded[:5, :7] = x[0]
    real = torch.zeros(6, 9, 1)
    real[:5, :7] = 1
    cut = oracles.interleaved_windows if cls is InterleavedAttention else oracles.block_windows
    tokens, is_real = cut(padded, window), cut(real, window)[..., 0].bool()
    place = cut(torch.arange(54, dtype=torch.float64).view(6, 9, 1), window)[..., 0].long()
    qkv = mixer.qkv(tokens).view(len(tokens), 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
    mixed = oracles.attention(*qkv, None, is_real[:, None, :] if masked else None)
    mixed = mixer.proj(mixed.transpose(1, 2).reshape(len(tokens), 9, 8))
    out = torch.empty(54, 8, dtype=torch.float64)
    out[place.flatten()] = mixed.flatten(0, 1)
    assert torch.allclose(mixer(x)[0], out.view(6, 9, 8)[:5, :7])


@pytest.mark.parametrize("model", ["iwin_t", "swin_t"])
@pytest.mark.parametrize("pad_attention", ["masked", "released"])
@pytest.mark.parametrize("size", [(36, 52), (97, 40), (64, 64)])
def test_a_model_for_changing_sizes_pads_as_one_built_for_the_size(model, pad_attention, size) -> None:
    """With windows of 2 none shrinks, and with no kernel in the last stage both have the same blocks."""
    keys = {**SMALL, "window_size": 2, "pad_attention": pad_attention, "kernel_sizes": [3, 3, 3, None]}
    torch.manual_seed(0)
    fixed = iwin.create_model(model, img_size=size, **keys).eval()
    changing = iwin.create_model(model, img_size=64, dynamic=True, **keys).eval()
    changing.load_state_dict(fixed.state_dict())
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert torch.allclose(changing(x), fixed(x), atol=1e-5)


@pytest.mark.parametrize("mixer", ["shifted", "window", "interleaved"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("size", [(33, 47), (40, 56), (48, 48)])
def test_masked_padding_leaves_every_gradient_finite(mixer: str, dynamic: bool, size: tuple[int, int]) -> None:
    """Also in a shifted window with a region of padding alone, whose tokens have no real key to see."""
    torch.manual_seed(0)
    keys = {**SMALL, "depths": [2, 2, 2, 2], "window_size": 4, "mixer": mixer, "img_size": size, "dynamic": dynamic}
    model = iwin.create_model("swin_t", **keys)
    model(torch.randn(2, 3, *size)).square().sum().backward()
    broken = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert not broken


def test_another_size_than_built_for_is_an_error() -> None:
    model = iwin.create_model("iwin_micro", num_classes=10)
    with pytest.raises(ValueError, match="built for images of 32 x 32 pixels and got 36 x 32"):
        model(torch.randn(1, 3, 36, 32))


@pytest.mark.parametrize(
    ("model", "position"),
    [
        ("iwin_t", "none"),
        ("iwin_t", ["absolute", "relative"]),
        ("swin_t", None),
        ("iwin_t", "log_cpb"),
        ("iwin_t", "rotary"),
    ],
)
def test_set_input_size_is_a_model_built_for_it_with_the_same_weights(model, position) -> None:
    torch.manual_seed(0)
    grown = iwin.create_model(model, img_size=64, window_size=2, position=position, **SMALL).eval()
    grown.set_input_size((96, 128), window_size=3)
    built = iwin.create_model(model, img_size=(96, 128), window_size=3, position=position, **SMALL).eval()
    assert grown.config == built.config
    built.load_state_dict(grown.state_dict())
    x = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        assert torch.equal(grown(x), built(x))


def test_tables_are_resized_by_bicubic_interpolation() -> None:
    model = iwin.create_model("swin_t", img_size=64, window_size=2, position=["absolute", "relative"], **SMALL)
    absolute, table = model.positions["absolute"].table, model.layers[0].blocks[0].attn.positions["relative"].table
    model.set_input_size(128, window_size=4)
    grid = torch.nn.functional.interpolate(table.t().view(1, 1, 3, 3), size=(7, 7), mode="bicubic")
    resized = model.layers[0].blocks[0].attn.positions["relative"].table
    assert torch.allclose(resized[:, 0], grid.flatten())
    grid = torch.nn.functional.interpolate(absolute.permute(0, 3, 1, 2), size=(32, 32), mode="bicubic")
    assert torch.allclose(model.positions["absolute"].table, grid.permute(0, 2, 3, 1))


def test_a_convolution_that_appears_starts_at_zero_and_one_with_weights_is_not_dropped() -> None:
    model = iwin.create_model("iwin_t", img_size=64, window_size=2, **SMALL)
    assert model.layers[3].blocks[0].local is None
    model.set_input_size(128, window_size=2)
    appeared = model.layers[3].blocks[0].local
    assert appeared is not None
    assert not any(p.any() for p in appeared.parameters())
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ConfigError, match="stage 3 covers the map"):
        model.set_input_size(64)
    assert model.img_size == (128, 128), "a refusal changes nothing"
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_real_distances_under_dilation() -> None:
    """Rotary and log-CPB see the map's distances: a window of every second token is a stretched one."""
    from iwin.models.positions import LogCPB, Rotary

    spec = BlockSpec(dim=8, heads=2, window=2, feature_size=(4, 4))
    torch.manual_seed(0)
    near, far = torch.tensor([[0, 0], [0, 1]]), torch.tensor([[0, 0], [0, 2]])
    q, k = torch.randn(2, 1, 2, 2, 4)
    cpb = LogCPB(spec)
    assert not torch.allclose(cpb(q, k, near)[2], cpb(q, k, far)[2])
    rotary = Rotary(spec)
    for coordinates in (near, far, far + 3):
        a, b, _ = rotary(q, k, coordinates)
        assert torch.allclose(a.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
        products = a @ b.transpose(-2, -1)
        if coordinates is far:
            kept = products
    assert torch.allclose(products, kept, atol=1e-5), "products depend on differences of places alone"
