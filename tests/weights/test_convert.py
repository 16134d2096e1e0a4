"""`iwin convert`: bit for bit, never over an existing file, and only what the other code can compute."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import NUMBERS, outputs, released, same, save, small

import iwin
from iwin.errors import WeightsError
from iwin.tools.cli import main
from iwin.weights.read import read_weights
from iwin.weights.save import save_weights

SMALL = ["img_size=64", "window_size=4", "embed_dim=8", "depths=[1,1,2,1]", "num_heads=[1,2,2,4]"]


@pytest.fixture
def convert(capsys: pytest.CaptureFixture):
    """Run `iwin convert`; returns what it printed, or its error."""

    def call(*args: object) -> str:
        code = main(["convert", *map(str, args)])
        printed = capsys.readouterr()
        assert (code == 0) == (not printed.err)
        return printed.err or printed.out

    return call


@pytest.mark.parametrize("model", ["iwin_t", "swin_t"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_released_to_ours_to_released_is_bit_identical(tmp_path: Path, convert, model: str, dtype) -> None:
    position = ["absolute", "relative"] if model == "swin_t" else ["absolute"]
    state = {name: t.to(dtype) for name, t in released(small(model, position=position).state_dict()).items()}
    path = save(tmp_path / "w.pth", {"model": state, "config": Path("x")})
    positions = f"position=[{','.join(position)}]"
    printed = convert(path, tmp_path / "ours.safetensors", "--model", model, positions, *SMALL)
    assert "loaded" in printed
    assert "entries, names: ours" in printed
    convert(tmp_path / "ours.safetensors", tmp_path / "released.safetensors", "--to", "released")
    assert same(load_file(tmp_path / "released.safetensors"), state)
    convert(tmp_path / "released.safetensors", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()
    assert (tmp_path / "again.json").read_text() == (tmp_path / "ours.json").read_text()


def test_the_json_holds_the_configuration_and_the_version(tmp_path: Path, convert) -> None:
    model = small()
    path = save(tmp_path / "w.pth", model.state_dict())
    convert(path, tmp_path / "w.safetensors", "--model", "iwin_t", *SMALL)
    content = json.loads((tmp_path / "w.json").read_text())
    assert content == {"format_version": 1, "model": model.config}
    again = iwin.WindowTransformer(**content["model"])
    iwin.load_pretrained(again, tmp_path / "w.safetensors")
    assert torch.equal(outputs(again), outputs(model))


def test_a_checkpoint_of_a_run_tells_its_model(tmp_path: Path, convert) -> None:
    model = small("swin_t")
    config = {"model": {"_target_": "iwin.create_model", "name": "swin_t", **model.config}}
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    path = save(tmp_path / "best.ckpt", {"iwin": {"version": "0.1.0", "config": config}, "state_dict": state})
    convert(path, tmp_path / "w.safetensors")
    assert same(read_weights(tmp_path / "w.safetensors").tensors, dict(model.state_dict()))


def test_timms_names_load_into_timms_swin(tmp_path: Path, convert) -> None:
    from timm.models.swin_transformer import SwinTransformer

    model = small("swin_t")
    save_weights(tmp_path / "w.safetensors", model.state_dict(), model.config)
    convert(tmp_path / "w.safetensors", tmp_path / "timm.safetensors", "--to", "timm")
    theirs = SwinTransformer(**{**NUMBERS, "img_size": 64, "window_size": 4})
    theirs.load_state_dict(load_file(tmp_path / "timm.safetensors"))
    assert torch.allclose(outputs(theirs), outputs(model), rtol=1e-5, atol=1e-5)


def test_an_existing_file_is_never_written_over(tmp_path: Path, convert) -> None:
    path = save(tmp_path / "w.pth", small().state_dict())
    for existing in ("w.safetensors", "w.json"):
        (tmp_path / existing).write_text("precious")
        assert f"{existing} exists already" in convert(path, tmp_path / "w.safetensors", "--model", "iwin_t", *SMALL)
        assert (tmp_path / existing).read_text() == "precious"
        assert sorted(f.name for f in tmp_path.iterdir()) == sorted(["w.pth", existing])
        (tmp_path / existing).unlink()


def test_what_is_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    link = os.link

    def full(source: Path, target: Path) -> None:
        if target.suffix == ".safetensors":
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(WeightsError, match="cannot be written: No space left"):
        save_weights(tmp_path / "w.safetensors", model.state_dict(), model.config)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_converted_says_why(tmp_path: Path, convert) -> None:
    path, target = save(tmp_path / "w.pth", small().state_dict()), tmp_path / "out.safetensors"
    assert "say which one it is" in convert(path, target)
    assert "did you mean img_size" in convert(path, target, "--model", "iwin_t", "image_size=64")
    assert "must end with .safetensors" in convert(path, tmp_path / "w.bin", "--model", "iwin_t", *SMALL)
    assert "does not fit this model" in convert(path, target, "--model", "swin_t", *SMALL)
    assert "would be resized or made anew" in convert(path, target, "--model", "iwin_t", *SMALL, "img_size=256")
    assert not target.exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixer": "window"}, "mixer"),
        ({"structure": "S2"}, "structure S1, not S2"),
        ({"downsample": "avgpool"}, "downsample"),
        ({"position": "relative"}, "position"),
        ({"norm_eps": 1e-6}, "norm_eps 1e-05, not 1e-06"),
        ({"img_size": 72}, "pad_attention masked hides them"),
    ],
)
def test_other_code_gets_only_what_it_computes(tmp_path: Path, convert, keys: dict, message: str) -> None:
    model = small(**keys)
    save_weights(tmp_path / "w.safetensors", model.state_dict(), model.config)
    error = convert(tmp_path / "w.safetensors", tmp_path / "r.safetensors", "--to", "released")
    assert message in error
    assert not (tmp_path / "r.safetensors").exists()
