"""`iwin average`: the mean in float64, of equal models alone, and what evaluation and loading take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import iwin
from iwin.errors import WeightsError
from iwin.tools.average import Mean
from iwin.tools.cli import main
from iwin.weights.save import save_weights


@pytest.fixture
def average(capsys: pytest.CaptureFixture):
    """Run `iwin average`; returns what it printed, or its error."""

    def call(*args: object) -> str:
        code = main(["average", *map(str, args)])
        printed = capsys.readouterr()
        assert (code == 0) == (not printed.err)
        return printed.err or printed.out

    return call


def model(seed: int, name: str = "swin_micro", **keys: Any) -> iwin.WindowTransformer:
    torch.manual_seed(seed)
    made = iwin.create_model(name, **{"num_classes": 10, **keys})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter))
    return made


def written(path: Path, made: iwin.WindowTransformer) -> Path:
    save_weights(path, made.state_dict(), made.config)
    return path


def checkpoint(path: Path, made: iwin.WindowTransformer, state: dict[str, Tensor] | None = None) -> Path:
    """A checkpoint as a run writes it that averages its weights: those are what stands under state_dict."""
    state = dict(made.state_dict()) if state is None else state
    kept = {f"model.{name}": value for name, value in state.items()}
    raw = {name: torch.full_like(value, float("nan")) for name, value in kept.items()}
    config = {"model": {"_target_": "iwin.create_model", "name": "swin_micro", **made.config}}
    content = {"state_dict": kept, "current_model_state": raw, "iwin": {"version": iwin.__version__, "config": config}}
    torch.save(content, path)
    return path


def test_every_weight_is_the_mean_and_the_file_is_loaded_as_any(tmp_path: Path, average) -> None:
    models = [model(seed, drop_path_rate=0.1 * seed) for seed in range(3)]
    sources = [written(tmp_path / "a.safetensors", models[0]), checkpoint(tmp_path / "b.ckpt", models[1])]
    sources.append(checkpoint(tmp_path / "c.ckpt", models[2]))
    printed = average(*sources, "--out", tmp_path / "soup.safetensors")
    assert "the mean of 3" in printed
    found = load_file(tmp_path / "soup.safetensors")
    states = [made.state_dict() for made in models]
    assert found.keys() == states[0].keys()
    for name, value in found.items():
        one, two, three = (state[name].double() for state in states)
        assert torch.equal(value, ((one + two + three) / 3).float()), name
    content = json.loads((tmp_path / "soup.json").read_text())
    assert content["model"] == models[0].config
    loaded = iwin.WindowTransformer(**content["model"])
    iwin.load_pretrained(loaded, tmp_path / "soup.safetensors")
    assert all(torch.equal(value, found[name]) for name, value in loaded.state_dict().items())


def test_the_sum_is_made_in_float64() -> None:
    """In float32, a hundred times 0.1 beside 1e8 would be lost."""
    mean = Mean()
    for value in [1e8, *[0.1] * 100, -1e8]:
        mean.add({"w": torch.tensor([value])}, "one")
    assert mean.result()["w"].item() == pytest.approx(10 / 102, rel=1e-6)
    assert mean.result()["w"].dtype == torch.float32


def test_whole_numbers_must_be_the_same() -> None:
    mean = Mean()
    first = {"w": torch.ones(2), "n": torch.tensor(3)}
    mean.add(first, "one")
    mean.add({"w": torch.zeros(2), "n": torch.tensor(3)}, "two")
    assert mean.result()["n"].item() == 3
    assert torch.equal(first["w"], torch.ones(2)), "what was given stays as it was"
    with pytest.raises(WeightsError, match="three: n holds whole numbers"):
        mean.add({"w": torch.ones(2), "n": torch.tensor(4)}, "three")
    with pytest.raises(WeightsError, match="three: n is not in all"):
        mean.add({"w": torch.ones(2)}, "three")
    with pytest.raises(WeightsError, match="three: w is of another shape or type"):
        mean.add({"w": torch.ones(2).half(), "n": torch.tensor(3)}, "three")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_classes": 7}, "model.num_classes is 7 here and 10 there"),
        ({"img_size": 64}, "model.img_size is [64, 64] here and [32, 32] there"),
        ({"window_size": 2}, "model.window_size is [2, 2, 2, 1] here and [4, 4, 2, 1] there"),
        ({"num_heads": [1, 2, 2, 4]}, "model.num_heads is 1 2 2 4 in the weights' configuration"),
        ({"position": "log_cpb"}, "model.position.log_cpb"),
        ({"name": "iwin_micro"}, "model.depths is 1 1 2 1"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, average, keys: dict[str, Any], message: str) -> None:
    one = written(tmp_path / "a.safetensors", model(0, img_size=32))
    other = written(tmp_path / "b.safetensors", model(1, **{"img_size": [32, 32], **keys}))
    error = average(one, other, "--out", tmp_path / "soup.safetensors")
    assert "is of another model than" in error
    assert message in error
    assert not (tmp_path / "soup.safetensors").exists()


def test_what_is_no_mean_says_why(tmp_path: Path, average) -> None:
    one, two = (written(tmp_path / f"{seed}.safetensors", model(seed)) for seed in range(2))
    out = tmp_path / "soup.safetensors"
    assert "at least two checkpoints" in average(one, "--out", out)
    assert "named twice" in average(one, two, one, "--out", out)
    assert "no such file or run folder" in average(one, tmp_path / "absent", "--out", out)
    plain = tmp_path / "plain.pth"
    torch.save(model(2).state_dict(), plain)
    assert "iwin convert --model first" in average(one, plain, "--out", out)
    broken = model(3)
    with torch.no_grad():
        broken.norm.weight[0] = float("inf")
    assert "not finite" in average(one, written(tmp_path / "inf.safetensors", broken), "--out", out)
    assert "must end with .safetensors" in average(one, two, "--out", tmp_path / "soup.pth")
    assert not out.exists()
    before = two.read_bytes()
    assert "exists already" in average(one, two, "--out", two)
    assert two.read_bytes() == before


def test_two_runs_make_one_model_that_is_evaluated(program, average, tmp_path: Path) -> None:
    """Of a folder, what eval.py takes: its best checkpoint, and in it the averaged weights."""
    folders = []
    for seed in (0, 1):
        where = tmp_path / str(seed)
        short = ("debug=smoke", "data.image_size=32", "callbacks=ema", "callbacks.ema.decay=0.5")
        program("train", *short, f"seed={seed}", f"paths.runs_dir={where}")
        folders += where.iterdir()
    out = tmp_path / "soup.safetensors"
    average(*folders, "--out", out)
    states = [torch.load(f / "checkpoints" / "best.ckpt", weights_only=True) for f in folders]
    found = load_file(out)
    for name, value in found.items():
        one, other = (state["state_dict"][f"model.{name}"].double() for state in states)
        assert torch.equal(value, ((one + other) / 2).float()), name
    assert not torch.equal(
        states[0]["current_model_state"]["model.head.fc.weight"], states[0]["state_dict"]["model.head.fc.weight"]
    )
    printed = program(
        "eval", "init=checkpoint", f"init.path={out}", "data.num_workers=0", "trainer.limit_val_batches=1"
    )
    assert "val/top1" in printed
