"""The published implementations' outputs, stage outputs and gradients, reached to the last digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import iwin

CLASSIFIERS = ["iwin_micro", "iwin_micro_ape", "swin_micro"]


def build(config: dict) -> iwin.WindowTransformer:
    """The model that a reference's json describes."""
    keys = dict(config)
    kind = keys.pop("kind")
    if keys.pop("ape", False):
        keys["position"] = "absolute"
    if "input_size" in keys:  # the dense one
        keys |= {"img_size": keys.pop("input_size"), "dynamic": True, "pad_attention": "released", "num_classes": 0}
    return iwin.create_model({"iwin": "iwin_t", "swin": "swin_t", "iwin_dense": "iwin_t"}[kind], **keys)


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).detach().abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_outputs_stage_outputs_and_gradients(reference: Path, name: str) -> None:
    described = json.loads((reference / f"{name}.json").read_text())
    io = load_file(reference / f"{name}.io.safetensors")
    model = build(described["config"])
    report = iwin.load_pretrained(model, reference / f"{name}.weights.safetensors")
    assert sum(p.numel() for p in model.parameters()) == described["params"]
    stage_outputs = []
    for stage in model.layers:
        stage.register_forward_hook(lambda module, inputs, outputs: stage_outputs.append(outputs[1]))
    logits = model(io["input"])
    assert relative(logits, io["logits"]) < 1e-5
    for index, ours in enumerate(stage_outputs):
        assert relative(ours.flatten(1, 2), io[f"layer{index}_output"]) < 1e-5, index
    (logits * io["loss_weight"]).sum().backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    theirs = {report.source_name(ours): norm for ours, norm in norms.items()}
    assert theirs.keys() == described["grad_norms"].keys()
    for key, norm in described["grad_norms"].items():
        assert theirs[key] == pytest.approx(norm, rel=1e-4), key


def test_dense_maps_of_an_image_that_pads_in_every_stage(reference: Path) -> None:
    described = json.loads((reference / "iwin_dense_micro.json").read_text())
    io = load_file(reference / "iwin_dense_micro.io.safetensors")
    weights = load_file(reference / "iwin_dense_micro.weights.safetensors")
    model = build(described["config"])
    iwin.load_pretrained(model, weights, allow_missing=("norm.*",), allow_unused=("norm[0-3].*",))
    maps = model.forward_intermediates(io["input"], intermediates_only=True, output_fmt="NHWC")
    for index, x in enumerate(maps):
        norm = weights[f"norm{index}.weight"], weights[f"norm{index}.bias"]
        ours = torch.nn.functional.layer_norm(x, x.shape[-1:], *norm).permute(0, 3, 1, 2)
        assert relative(ours, io[f"output{index}"]) < 1e-5, index
