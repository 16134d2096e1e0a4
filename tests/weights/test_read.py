"""Every kind of file is read by its content, and nothing in it is executed."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small import released, same, save, small

from iwin.errors import WeightsError
from iwin.weights.pickles import DTYPES
from iwin.weights.read import read_run_checkpoint, read_weights
from iwin.weights.save import save_weights

BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


class Attack:
    """Unpickled by pickle itself, this makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.makedirs, (str(self.place), 0o777, True)


@BOTH
@pytest.mark.parametrize("under", ["model", "state_dict", "module", None])
def test_torch_files_give_the_tensors_that_torch_gives(tmp_path: Path, legacy: bool, under: str | None) -> None:
    state = OrderedDict(small().state_dict())
    content = state if under is None else {"epoch": 3, under: state, "loss": torch.tensor(1.0)}
    path = save(tmp_path / "any.name", content, legacy)
    assert same(read_weights(path).tensors, dict(state))


@BOTH
def test_views_parameters_and_every_type_of_number(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(24.0).view(4, 6)
    state: dict[str, torch.Tensor] = {str(t): torch.ones(3, dtype=t) for t in DTYPES.values()}
    state |= {"t": base.t(), "part": base[1:3, ::2], "p": torch.nn.Parameter(base.clone()), "0": torch.tensor(2.0)}
    state |= {"none": torch.zeros(0, 3), "tied": base}
    read = read_weights(save(tmp_path / "w.pth", state, legacy)).tensors
    assert same(read, {name: tensor.detach() for name, tensor in state.items()})
    assert all(read[name].dtype == tensor.dtype for name, tensor in state.items())


@BOTH
def test_an_attack_is_not_executed_and_the_weights_beside_it_are_read(tmp_path: Path, legacy: bool) -> None:
    place = tmp_path / "made by the attack"
    state = small().state_dict()
    path = save(tmp_path / "w.pth", {"model": state, "config": Attack(place), "more": [Attack(place)]}, legacy)
    assert same(read_weights(path).tensors, dict(state))
    inside = save(tmp_path / "inside.pth", {**state, "attack": Attack(place)}, legacy)
    weights = read_weights(inside)
    assert same(weights.tensors, dict(state))
    assert weights.beside == ("attack",)
    assert not place.exists()
    torch.load(path, weights_only=False)
    assert place.exists(), "the attack would have worked"


@BOTH
def test_foreign_objects_are_neither_imported_nor_in_the_way(tmp_path: Path, monkeypatch, legacy: bool) -> None:
    """A yacs-like dict, nested classes, slots, sets, a Namespace, an optimizer with its state, numpy values."""
    import numpy as np

    module = types.ModuleType("foreign_config")
    code = """
import enum
class CfgNode(dict):
    def __init__(self, init):
        super().__init__(init)
        self.__dict__['__immutable__'] = True
    class Nested: pass
class Slots:
    __slots__ = ('a',)
class Colour(enum.Enum):
    RED = 1
class Sequence(list): pass
class Bag(set): pass
"""
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "foreign_config", module)
    model = small()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    slots = module.Slots()
    slots.a = 1
    state = model.state_dict()
    content = {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "config": module.CfgNode({"MODEL": module.CfgNode({"TYPE": "swin"})}),
        "args": argparse.Namespace(lr=0.1, size=torch.Size([1, 2]), device=torch.device("cpu"), dtype=torch.float32),
        "others": [module.CfgNode.Nested(), slots, module.Colour.RED, module.Sequence([1]), module.Bag({2}), {3}],
        "numpy": [np.float64(1), np.arange(3), np.random.RandomState(0)],
    }
    path = save(tmp_path / "w.pth", content, legacy)
    monkeypatch.delitem(sys.modules, "foreign_config")
    assert same(read_weights(path).tensors, dict(state))
    assert "foreign_config" not in sys.modules


def test_a_checkpoint_of_a_run_brings_its_configuration(tmp_path: Path) -> None:
    model = small()
    config = {"model": {"_target_": "iwin.create_model", "name": "iwin_t", **model.config}, "seed": 1}
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()} | {"ema.x": torch.ones(1)}
    checkpoint = {"iwin": {"version": "0", "config": config}, "state_dict": state, "loops": {"x": Attack(tmp_path)}}
    weights = read_run_checkpoint(save(tmp_path / "best.ckpt", checkpoint))
    assert same(weights.tensors, dict(model.state_dict()))
    assert weights.config == model.config
    assert weights.run_config == config
    with pytest.raises(WeightsError, match=r"no checkpoint of a run.*model=NAME init=checkpoint init.path="):
        read_run_checkpoint(save(tmp_path / "plain.pth", model.state_dict()))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wrappers_put_in_front_of_names_is_taken_off(wrapper: str) -> None:
    state = small().state_dict()
    assert same(read_weights({wrapper + name: tensor for name, tensor in state.items()}).tensors, dict(state))


def test_safetensors_of_anyone(tmp_path: Path) -> None:
    state = released(small().state_dict())
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.bin")
    weights = read_weights(tmp_path / "w.bin")
    assert same(weights.tensors, state)
    assert weights.config is None


def test_ours_carries_the_configuration_in_a_json_and_misses_it(tmp_path: Path) -> None:
    model = small(position=["absolute", "relative"])
    path = tmp_path / "w.safetensors"
    save_weights(path, model.state_dict(), model.config)
    assert read_weights(path).config == model.config
    (tmp_path / "w.json").rename(tmp_path / "w.away")
    with pytest.raises(WeightsError, match=r"w.json with its configuration is missing beside it"):
        read_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(modle=1), "unknown key 'modle'; did you mean model"),
        (lambda c: c.pop("model"), "lacks the key 'model'"),
        (lambda c: c.update(format_version=99), "format version 99, this iwin reads 1"),
        (lambda c: c["model"].update(num_head=[1]), "unknown key model.num_head; did you mean num_heads"),
        (lambda c: c["model"].pop("depths"), "lacks the key model.depths"),
        (lambda c: c["model"].update(mixer="x"), "model.mixer must be an object"),
        (lambda c: c["model"].update(embed_dim="x"), "none of a model"),
        (lambda c: c.update(model=[]), "model must be an object"),
    ],
)
def test_a_json_that_is_wrong_names_its_key(tmp_path: Path, change, message: str) -> None:
    model = small()
    save_weights(tmp_path / "w.safetensors", model.state_dict(), model.config)
    content = json.loads((tmp_path / "w.json").read_text())
    change(content)
    (tmp_path / "w.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    path, state = tmp_path / "whole", {"a": torch.randn(50, 3), "b": torch.randn(7)}
    if kind == "safetensors":
        save_file(state, path)
    else:
        save(path, {"model": state}, legacy=kind == "legacy")
    content = path.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in [*range(0, 200, 7), *range(200, len(content), 53), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"cut.pth cannot be read"):
            read_weights(cut)


def test_flipped_bytes_in_a_zip_are_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", {"a": torch.full((64,), 3.0)})
    content = path.read_bytes()
    path.write_bytes(
        content.replace(torch.full((64,), 3.0).numpy().tobytes(), torch.full((64,), 5.0).numpy().tobytes())
    )
    assert torch.load(path)["a"][0] == 5, "torch does not look"
    with pytest.raises(WeightsError, match="CRC"):
        read_weights(path)


@pytest.mark.parametrize("seed", range(40))
@BOTH
def test_a_damaged_pickle_is_an_error_or_read_but_never_a_crash(tmp_path: Path, legacy: bool, seed: int) -> None:
    path = save(tmp_path / "w.pth", {"model": OrderedDict(a=torch.ones(4))}, legacy)
    draw = torch.Generator().manual_seed(seed)
    if legacy:
        content = bytearray(path.read_bytes())
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        (key,) = [name for name in members if name.endswith("data.pkl")]
        content = bytearray(members[key])
    for _ in range(3):
        content[int(torch.randint(len(content), (), generator=draw))] = int(torch.randint(256, (), generator=draw))
    if legacy:
        path.write_bytes(content)
    else:
        members[key] = bytes(content)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    with contextlib.suppress(WeightsError):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version h'"),
        (b"<!DOCTYPE html>", "neither safetensors nor of torch.save"),
        (b"PK\x03\x04" + bytes(40), "truncated or damaged"),
        (b"\x80\x04K\x01.", "a pickle, but not one of torch.save"),
    ],
)
def test_other_files_are_errors(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "w.pth")


def test_what_is_no_state_dict_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no file"):
        read_weights(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_weights(tmp_path)
    with pytest.raises(WeightsError, match=r"Linear: save the state_dict\(\)"):
        read_weights(save(tmp_path / "m.pth", torch.nn.Linear(2, 2)))
    with pytest.raises(WeightsError, match="It has: epoch, config"):
        read_weights(save(tmp_path / "e.pth", {"epoch": 1, "config": {}}))
    with zipfile.ZipFile(tmp_path / "z.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(WeightsError, match=r"zip archive, but not one of torch.save"):
        read_weights(tmp_path / "z.pth")
