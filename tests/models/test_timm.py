"""Registered models behave in timm as timm's own do."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import iwin
from iwin.errors import ConfigError
from iwin.models.zoo import timm_names

TINY = "iwin_tiny_patch4_window7_224"
# A small relative of the registered models, so that forward passes are quick.
SMALL = {"img_size": 64, "window_size": 4, "embed_dim": 8, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4)}


def small(**keys) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(TINY, **{**SMALL, **keys})


def test_the_four_sizes_are_listed_with_window_and_image() -> None:
    names = timm.list_models("iwin*")
    assert set(names) == set(timm_names())
    assert {TINY, "iwin_base_patch4_window12_384", "iwin_large_patch4_window12_384"} <= set(names)


@pytest.mark.parametrize("name", sorted(timm_names()))
def test_every_registered_model_builds_with_its_configuration(name: str) -> None:
    zoo_name, side = timm_names()[name]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    size = iwin.models.zoo.SIZES[zoo_name]
    assert [plan.depth for plan in model.plan] == list(size.depths)
    assert [plan.heads for plan in model.plan] == list(size.num_heads)
    assert model.plan[0].window == int(name.split("window")[1].split("_")[0])
    assert model.default_cfg["input_size"] == (3, side, side)
    assert model.pretrained_cfg["classifier"] == "head.fc"
    assert model(torch.empty(1, 3, side, side, device="meta")).shape == (1, 7)


def test_there_are_no_weights_to_download() -> None:
    with pytest.raises(ConfigError, match="load_pretrained"):
        timm.create_model(TINY, pretrained=True)


def test_classifier_protocol() -> None:
    model = small(num_classes=7)
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_features(x)
    assert features.shape == (2, 2, 2, 64)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features) == (2, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), model(x))
    assert model.get_classifier().weight.shape == (7, 64)
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    assert model.num_classes == 3
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 2, 2, 64)
    assert small(num_classes=0)(x).shape == (2, 64)
    assert small(num_classes=0, global_pool="")(x).shape == (2, 2, 2, 64)


def test_other_arguments_of_create_model() -> None:
    model = small(in_chans=1, drop_rate=0.1, drop_path_rate=0.3, proj_drop_rate=0.1, attn_drop_rate=0.1)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 1000)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.075, 0.15, 0.225, 0.3])
    with pytest.raises(TypeError, match="no_such_key"):
        timm.create_model(TINY, no_such_key=1)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (2,)])
def test_features_only(out_indices: tuple[int, ...]) -> None:
    features = small(features_only=True, out_indices=out_indices)
    maps = features(torch.randn(2, 3, 64, 64))
    assert features.feature_info.channels() == [8 * 2**i for i in out_indices]
    assert features.feature_info.reduction() == [4 * 2**i for i in out_indices]
    assert [tuple(m.shape) for m in maps] == [(2, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in out_indices]


def test_forward_intermediates() -> None:
    model = small().eval()
    x = torch.randn(1, 3, 64, 64)
    final, maps = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    assert [m.shape[1] for m in maps] == [8, 16, 32, 64]
    channels_last = model.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
    assert all(torch.equal(a, b.permute(0, 3, 1, 2)) for a, b in zip(maps, channels_last, strict=True))
    (last,) = model.forward_intermediates(x, indices=1, norm=True, output_fmt="NHWC", intermediates_only=True)
    assert torch.equal(last, final)
    assert not torch.equal(channels_last[-1], final)
    calls = []
    model.layers[2].register_forward_hook(lambda *_: calls.append(2))
    (early,) = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(early, maps[1])
    assert not calls
    with pytest.raises(ValueError, match="output_fmt"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_prune_intermediate_layers() -> None:
    model = small()
    x = torch.randn(1, 3, 64, 64)
    expected = model.eval().forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    assert len(model.layers) == 2
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    got = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", ["iwin_micro", "swin_micro"])
def test_gradient_checkpointing_gives_the_same_gradients(name: str) -> None:
    torch.manual_seed(0)
    model = iwin.create_model(name, num_classes=10, drop_path_rate=0.5)
    x = torch.randn(4, 3, 32, 32)
    found = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        torch.manual_seed(1)
        model(x).square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_every_parameter_has_a_group_and_a_depth() -> None:
    model = small()
    depths = model.parameter_depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    assert depths["patch_embed.proj.weight"] == 0
    assert depths["layers.0.blocks.0.attn.qkv.weight"] == 1
    assert depths["layers.0.downsample.conv.weight"] == 1
    assert depths["layers.2.blocks.1.mlp.fc1.weight"] == 4
    assert depths["norm.weight"] == depths["head.fc.weight"] == 6
    for coarse in (False, True):
        grouped = timm.models.group_parameters(model, model.group_matcher(coarse))
        names = [name for group in grouped.values() for name in group]
        assert sorted(names) == sorted(depths)
    groups = param_groups_layer_decay(model, no_weight_decay_list=model.no_weight_decay())
    assert sum(len(group["params"]) for group in groups) == len(depths)


def test_no_weight_decay_names_the_position_tables() -> None:
    names = small(position=["absolute", "relative"]).no_weight_decay()
    assert "positions.absolute.table" in names
    assert "layers.2.blocks.1.attn.positions.relative.table" in names
    assert len(names) == 6


@pytest.mark.parametrize("name", ["iwin_micro", "swin_micro"])
def test_channels_last_input_and_state_dict_round_trip(name: str) -> None:
    torch.manual_seed(0)
    model = iwin.create_model(name, num_classes=10).eval()
    other = iwin.create_model(name, num_classes=10).eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(other(x.contiguous(memory_format=torch.channels_last)), model(x), atol=1e-6)
    assert not any(key.endswith(("mask", "index", "coordinates")) for key in model.state_dict())


EXPORTED = [("iwin_micro", {}), ("swin_micro", {}), ("iwin_micro", {"position": ["absolute", "relative", "rotary"]})]


@pytest.mark.parametrize(("name", "keys"), EXPORTED)
def test_torch_export_with_a_dynamic_batch(name: str, keys: dict) -> None:
    model = iwin.create_model(name, num_classes=10, **keys).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(program.module()(x), model(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "keys"), EXPORTED)
def test_torch_compile_in_one_graph(name: str, keys: dict) -> None:
    model = iwin.create_model(name, num_classes=10, depths=[2, 1, 1, 1], **keys)
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(4, 3, 32, 32)
    expected, got = model(x), compiled(x)
    assert torch.allclose(got, expected, atol=1e-4)
    got.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
