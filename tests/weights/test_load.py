"""Loading: equal functions, allowed differences said aloud, and errors for all else."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from small import NUMBERS, outputs, released, same, save, small
from timm.models.swin_transformer import SwinTransformer

import iwin
from iwin.errors import ConfigError, WeightsError
from iwin.weights.imagenet22k import rows_of_1k
from iwin.weights.read import Weights, read_weights
from iwin.weights.save import save_weights


def carried(model: iwin.WindowTransformer, tmp_path: Path) -> Weights:
    """The weights of `model` from a file that carries its configuration."""
    save_weights(tmp_path / "carried.safetensors", model.state_dict(), model.config)
    return read_weights(tmp_path / "carried.safetensors")


@pytest.mark.parametrize("model", ["iwin_t", "swin_t"])
@pytest.mark.parametrize("position", [None, ["absolute"], ["absolute", "relative"]])
def test_released_weights_give_the_same_function(tmp_path: Path, model: str, position) -> None:
    source, target = small(model, position=position), small(model, seed=1, position=position)
    content = {"model": released(source.state_dict()), "epoch": 299}
    report = iwin.load_pretrained(target, save(tmp_path / "w.pth", content))
    assert same(target.state_dict(), source.state_dict())
    assert report.naming == "released"
    assert report.loaded.keys() == target.state_dict().keys()
    assert not report.resized
    assert report.source_name("head.fc.weight") == "head.weight"
    assert "heads 1 2 2 4, windows 4 4 4 2" in str(report)


def test_swins_buffers_are_recomputed() -> None:
    source, target = small("swin_t"), small("swin_t", seed=1)
    state = released(source.state_dict())
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    state["layers.0.blocks.1.attn_mask"] = torch.full((16, 16, 16), float("-inf"))
    report = iwin.load_pretrained(target, state)
    assert len(report.recomputed) == 2
    assert torch.equal(outputs(source), outputs(target))


@pytest.mark.parametrize(("side", "window"), [(64, 4), (64, 2), (32, 8)])
def test_timms_swin_gives_the_same_outputs(side: int, window: int) -> None:
    torch.manual_seed(0)
    numbers = {**NUMBERS, "embed_dim": 16, "depths": (1, 2, 2, 1), "img_size": side, "window_size": window}
    theirs = SwinTransformer(**numbers).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = iwin.create_model("swin_t", **numbers)
    report = iwin.load_pretrained(ours, {"state_dict": theirs.state_dict()})
    assert report.naming == "timm"
    assert report.source_name("layers.0.downsample.reduction.weight") == "layers.1.downsample.reduction.weight"
    assert torch.allclose(outputs(ours, side), outputs(theirs, side), rtol=1e-5, atol=1e-5)


def test_a_timm_model_takes_weights_by_its_own_names(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=3)
    target = timm.create_model("test_resnet", num_classes=5)
    path = save(tmp_path / "w.pth", source.state_dict())
    with pytest.raises(WeightsError, match=r"set init.head=reset"):
        iwin.load_pretrained(target, path)
    report = iwin.load_pretrained(target, path, head="reset")
    assert set(report.initialised) == {"fc.weight", "fc.bias"}
    assert torch.equal(target.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"])


def test_half_precision_weights_are_loaded_and_told() -> None:
    model = small()
    report = iwin.load_pretrained(model, {name: tensor.half() for name, tensor in small(seed=1).state_dict().items()})
    assert model.norm.weight.dtype == torch.float32
    assert "the weights are of torch.float16" in str(report)


@pytest.mark.parametrize("named", [dict, released], ids=["ours", "released"])
@pytest.mark.parametrize("model", ["iwin_t", "swin_t"])
@pytest.mark.parametrize("position", [None, ["absolute", "relative"]])
def test_another_resolution_is_as_set_input_size_makes_it(model: str, named, position) -> None:
    """Windows of 4 at 64 pixels: stages 2 and 3 are global. At 128 stage 2 is not, and gets convolutions."""
    source = small(model, position=position)
    target = small(model, seed=1, position=position, img_size=128, window_size=8 if position else 4)
    report = iwin.load_pretrained(target, named(source.state_dict()))
    source.set_input_size(128, 8 if position else 4)
    assert same(target.state_dict(), source.state_dict())
    assert torch.equal(outputs(source, 128), outputs(target, 128))
    tables = {name for name in target.state_dict() if name.endswith("table")}
    windows = [stage.window for stage in target.plan]
    resized = {n for n in tables if n.startswith("pos") or windows[int(n.split(".")[1])] != [4, 4, 4, 2][int(n[7])]}
    assert set(report.resized) == resized


def test_convolutions_that_appear_start_at_zero_and_leave_the_function_as_it_was(tmp_path: Path) -> None:
    """As from 224 to 1024: at 64 pixels attention sees the whole map in the last two stages, at 256 in none."""
    source = small(img_size=64)
    names = [n for n in small(img_size=256).state_dict() if ".local." in n and n not in source.state_dict()]
    assert len(names) == 6
    grown = small(img_size=64)
    grown.set_input_size(256)
    for weights in (released(source.state_dict()), carried(source, tmp_path)):
        target = small(seed=1, img_size=256)
        report = iwin.load_pretrained(target, weights)
        assert set(report.initialised) == set(names)
        assert torch.equal(outputs(target, 256), outputs(grown, 256))
        state = target.state_dict()
        assert all(not state[name].any() for name in report.initialised)
        assert "at zero, so that the model begins as the function that was loaded" in str(report)
        for block in target.stages[2].blocks:  # without its convolution the block computes the same
            x = torch.randn(1, 16, 16, 32)
            with torch.no_grad():
                with_zero = block(x)
                block.local = None
                assert torch.equal(block(x), with_zero)


def test_a_convolution_missing_where_attention_is_not_global_is_an_error(tmp_path: Path) -> None:
    state = released(small().state_dict())
    del state["layers.0.blocks.0.dwconv.depthwise.bias"]
    with pytest.raises(WeightsError, match=r"layers.0.blocks.0.local.conv.bias is missing"):
        iwin.load_pretrained(small(), state)
    without = small(mixer="interleaved_attention")
    with pytest.raises(WeightsError, match=r"layers.0.blocks.0.local.conv.weight is missing"):
        iwin.load_pretrained(small(img_size=128), without.state_dict())


def test_a_convolution_that_would_have_to_go_is_an_error() -> None:
    with pytest.raises(WeightsError, match=r"layers.2.blocks.0.dwconv.*no local mixer in that stage"):
        iwin.load_pretrained(small(), released(small(img_size=128).state_dict()))


def test_in_s2_a_convolution_cannot_appear() -> None:
    source = small(structure="S2")
    with pytest.raises(WeightsError, match="in structure S2 it cannot appear without effect"):
        iwin.load_pretrained(small(structure="S2", img_size=256), source.state_dict())
    with pytest.raises(ConfigError, match="in structure S2 brings a residual"):
        source.set_input_size(256)


def test_in_s3_the_norm_of_a_convolution_that_appears_is_as_in_a_new_model() -> None:
    source = small(structure="S3")
    target = iwin.create_model("iwin_t", img_size=256, window_size=4, structure="S3", **NUMBERS)
    report = iwin.load_pretrained(target, source.state_dict())
    assert report.initialised["layers.3.blocks.0.norm_local.weight"] == "as in the model"
    source.set_input_size(256)
    assert torch.equal(outputs(source, 256), outputs(target, 256))


def test_the_head_is_kept_reset_or_mapped() -> None:
    source = small(num_classes=21841)
    target = small(seed=1, num_classes=1000)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsError, match=r"set init.head=reset or init.head=map_22k_to_1k"):
        iwin.load_pretrained(target, source.state_dict())
    assert same(target.state_dict(), before), "an error leaves the model as it was"
    report = iwin.load_pretrained(target, source.state_dict(), head="map_22k_to_1k")
    rows = torch.tensor(rows_of_1k())
    assert torch.allclose(outputs(target), outputs(source)[:, rows], atol=1e-6)
    assert report.resized["head.fc.weight"] == ((21841, 64), (1000, 64))
    target.load_state_dict(before)
    report = iwin.load_pretrained(target, released(source.state_dict()), head="reset")
    assert torch.equal(target.head.fc.weight, before["head.fc.weight"])
    assert report.ignored.keys() == {"head.weight", "head.bias"}
    assert torch.equal(target.norm.weight, source.norm.weight)


def test_heads_that_cannot_be_mapped_or_are_on_one_side_only() -> None:
    source, bare = small(), small(num_classes=0)
    with pytest.raises(WeightsError, match=r"of one of 21841; the given state dict has 5, the model 5"):
        iwin.load_pretrained(small(), source.state_dict(), head="map_22k_to_1k")
    with pytest.raises(WeightsError, match="the given state dict has none, the model 5"):
        iwin.load_pretrained(small(), bare.state_dict(), head="map_22k_to_1k")
    with pytest.raises(WeightsError, match=r"head.weight: the model has no head; set init.head=reset"):
        iwin.load_pretrained(bare, released(source.state_dict()))
    with pytest.raises(WeightsError, match=r"head.fc.bias is missing: set init.head=reset"):
        iwin.load_pretrained(source, bare.state_dict())
    iwin.load_pretrained(bare, source.state_dict(), head="reset")
    iwin.load_pretrained(source, bare.state_dict(), head="reset")
    with pytest.raises(ConfigError, match=r"init.head=rest: did you mean reset"):
        iwin.load_pretrained(source, bare.state_dict(), head="rest")


def test_what_is_unexplained_is_an_error_with_the_nearest_names() -> None:
    state = released(small().state_dict())
    state["patch_embed.projection.weight"] = state.pop("patch_embed.proj.weight")
    with pytest.raises(WeightsError) as error:
        iwin.load_pretrained(small(), state)
    assert "patch_embed.proj.weight is missing; the nearest: patch_embed.projection.weight" in str(error.value)
    assert "patch_embed.projection.weight is unknown; the nearest: patch_embed.proj.weight" in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_and_shapes_that_differ_name_their_entry(value: float) -> None:
    state = released(small().state_dict())
    state["head.bias"] = torch.full((5,), value)
    state["norm.weight"] = torch.zeros(3)
    state["norm.bias"] = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(WeightsError) as error:
        iwin.load_pretrained(small(), state)
    assert "head.bias holds values that are not finite" in str(error.value)
    assert "norm.weight is (3,), the model has norm.weight of (64,)" in str(error.value)
    assert "norm.bias is of torch.int64" in str(error.value)


def test_a_table_of_other_heads_or_no_window_is_an_error() -> None:
    state = small("swin_t").state_dict()
    name = "layers.0.blocks.0.attn.positions.relative.table"
    for shape, message in (
        ((48, 1), r"no \(\(2M - 1\)\^2, heads\)"),
        ((9, 3), r"\(9, 3\), the model has .* \(49, 1\)"),
    ):
        with pytest.raises(WeightsError, match=message):
            iwin.load_pretrained(small("swin_t"), {**state, name: torch.zeros(shape)})


def test_patterns_allow_and_must_match() -> None:
    state = released(small().state_dict())
    del state["norm.weight"], state["norm.bias"]
    state["norm0.weight"] = torch.ones(8)
    target = small(seed=1)
    kept = target.norm.weight.clone()
    report = iwin.load_pretrained(target, state, allow_missing=["norm.*"], allow_unused=["norm[0-3].*"])
    assert torch.equal(target.norm.weight, kept)
    assert report.initialised["norm.bias"] == "as in the model, by allow_missing"
    assert report.ignored == {"norm0.weight": "allow_unused"}
    for key, pattern in (("allow_missing", "layers.*"), ("allow_unused", "neck.*"), ("allow_config", "depth")):
        allowed = {"allow_missing": ["norm.*"], "allow_unused": ["norm0*"]}
        with pytest.raises(WeightsError, match=f"{key}: '{pattern.replace('*', '.')}"):
            iwin.load_pretrained(target, state, **{**allowed, key: [*allowed.get(key, []), pattern]})
    with pytest.raises(ConfigError, match=r"init.allow_missing must be a list"):
        iwin.load_pretrained(target, state, allow_missing="norm.*")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"num_heads": [1, 2, 4, 8]},
            "model.num_heads is 1 2 2 4 in the weights' configuration and 1 2 4 8 in the model",
        ),
        ({"window_size": 2, "kernel_sizes": [3, 3, None, None]}, "model.window_size is 4 4 4 2 .* and 2 2 2 2"),
        ({"mixer": "window"}, "model.mixer.blocks.0.attention._target_ is .*InterleavedAttention .*WindowAttention"),
        ({"structure": "S2"}, "model.structure is S1 .* and S2"),
        ({"norm_eps": 1e-6}, "model.norm_eps is 1e-05 .* and 1e-06"),
    ],
)
def test_what_shapes_do_not_show_is_compared_with_the_configuration(tmp_path: Path, keys, message: str) -> None:
    weights, target = carried(small(), tmp_path), small(seed=1, **keys)
    with pytest.raises(WeightsError, match=message):
        iwin.load_pretrained(target, weights)
    report = iwin.load_pretrained(target, weights, allow_config=["*"])
    assert same(target.state_dict(), weights.tensors)
    assert "by allow_config: model." in str(report)


def test_rates_of_dropout_and_windows_for_another_image_may_differ(tmp_path: Path) -> None:
    weights = carried(small(), tmp_path)
    iwin.load_pretrained(small(drop_path_rate=0.3, drop_rate=0.1), weights)
    iwin.load_pretrained(small(img_size=128, window_size=8), weights)


@pytest.mark.parametrize("keys", [{"img_size": 72}, {"dynamic": True, "kernel_sizes": [3, 3, None, None]}])
def test_released_weights_in_a_model_that_hides_padding_are_an_error(tmp_path: Path, keys) -> None:
    source = small()
    with pytest.raises(WeightsError, match=r"model.pad_attention is masked.* set it to released"):
        iwin.load_pretrained(small(**keys), released(source.state_dict()))
    iwin.load_pretrained(small(pad_attention="released", **keys), released(source.state_dict()))
    iwin.load_pretrained(small(**keys), source.state_dict())
    padded = carried(small(pad_attention="released", **keys), tmp_path)
    with pytest.raises(WeightsError, match=r"model.pad_attention is released in the weights' .* and masked"):
        iwin.load_pretrained(small(**keys), padded)


def test_the_two_definitions_of_iwin_s_are_told_apart_aloud(tmp_path: Path) -> None:
    with torch.device("meta"):
        models = {name: iwin.create_model(name) for name in ("iwin_s", "iwin_s_paper", "iwin_t")}
    from iwin.weights.config import assumptions

    said = {name: " ".join(assumptions(model, 1000)) for name, model in models.items()}
    assert "heads 3 4 8 16" in said["iwin_s"]
    assert said["iwin_s_paper"].startswith("assumed, as the weights do not show it: heads 3 6 12 24")
    assert "Iwin-S has two definitions" in said["iwin_s"]
    assert "Iwin-S has two definitions" in said["iwin_s_paper"]
    assert "Iwin-S has" not in said["iwin_t"]
    assert "iwin_s_paper is the likely one" in " ".join(assumptions(models["iwin_s"], 21841))
