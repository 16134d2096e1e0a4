"""Whose names weights have, and the way from one naming to another and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small import released, small

from iwin.errors import WeightsError
from iwin.weights.formats import absolute_to_ours, from_ours, naming_of, to_ours


@pytest.mark.parametrize("name", ["iwin_micro", "iwin_micro_ape", "iwin_dense_micro", "swin_micro"])
def test_released_names_go_to_ours_and_back(reference: Path, name: str) -> None:
    with safe_open(reference / f"{name}.weights.safetensors", "pt") as file:
        names = [n for n in file.keys() if not n.startswith(("norm0", "norm1", "norm2", "norm3"))]  # noqa: SIM118
    assert naming_of(names) == "released"
    ours = [to_ours(n, "released") for n in names]
    assert [from_ours(n, "released") for n in ours] == names
    assert naming_of(ours) == "ours"


@pytest.mark.parametrize("model", ["iwin_t", "swin_t"])
@pytest.mark.parametrize("keys", [{}, {"position": ["absolute", "relative"]}, {"num_classes": 0}])
def test_our_names_are_seen_as_ours_and_written_out_by_hand_as_released(model: str, keys: dict) -> None:
    state = small(model, **keys).state_dict()
    assert naming_of(state) == "ours"
    assert {from_ours(name, "released") for name in state} == released(state).keys()
    assert naming_of(released(state)) == "released"


def test_timm_counts_a_downsampling_to_the_stage_it_leads_to() -> None:
    names = list(small("swin_t").state_dict())
    timms = [from_ours(name, "timm") for name in names]
    assert "layers.1.downsample.reduction.weight" in timms
    assert not any(name.startswith("layers.0.downsample") for name in timms)
    assert naming_of(timms) == "timm"
    assert [to_ours(name, "timm") for name in timms] == names


@pytest.mark.parametrize(
    ("name", "naming"),
    [
        ("layers.0.blocks.0.norm_local.weight", "released"),
        ("layers.0.downsample.pointwise.weight", "released"),
        ("layers.0.blocks.0.attn.positions.log_cpb.mlp.0.weight", "released"),
        ("layers.0.blocks.0.local.conv.weight", "timm"),
        ("positions.absolute.table", "timm"),
    ],
)
def test_parts_that_other_code_lacks_have_no_name_there(name: str, naming: str) -> None:
    with pytest.raises(WeightsError, match="has no name among those of"):
        from_ours(name, naming)


def test_an_absolute_embedding_is_square_unless_its_configuration_or_length_says_otherwise() -> None:
    table = torch.randn(1, 64, 3)
    assert absolute_to_ours(table, (4, 16), None).shape == (1, 8, 8, 3)
    assert absolute_to_ours(table, (8, 8), (4, 16)).shape == (1, 4, 16, 3)
    assert absolute_to_ours(torch.randn(1, 32, 3), (4, 8), None).shape == (1, 4, 8, 3)
    with pytest.raises(WeightsError, match="square map, or of the model's 3 x 8"):
        absolute_to_ours(torch.randn(1, 32, 3), (3, 8), None)
