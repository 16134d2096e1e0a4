from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iwin.batch import BadSample, Batch, Position
from iwin.errors import ConfigError, DataError
from iwin.train.callbacks.bad_samples import BadSamples


def batch(*keys: str) -> Batch:
    bad = tuple(BadSample(key, f"image {key} cannot be decoded, as it is cut short.") for key in keys)
    return Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1), Position(0, 0, 0, 0), bad)


def trainer(samples: int, rank: int = 0) -> Any:
    data = SimpleNamespace(train_dataset=range(samples))
    return SimpleNamespace(datamodule=data, is_global_zero=rank == 0, world_size=1)


def test_each_bad_sample_is_told_once_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback: Any = BadSamples(tmp_path, 0.001)
    for made in (batch(), batch("b:2", "a:1"), batch("a:1")):
        callback.on_train_batch_start(trainer(10_000), None, made, 0)
    assert capsys.readouterr().out.count("another stands in for it") == 2
    with (tmp_path / "bad_samples.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["key", "reason"],
            ["a:1", "image a:1 cannot be decoded, as it is cut short."],
            ["b:2", "image b:2 cannot be decoded, as it is cut short."],
        ]


def test_at_the_share_that_is_allowed_it_goes_on_and_above_it_stops(tmp_path: Path) -> None:
    callback: Any = BadSamples(tmp_path, 0.001)
    callback.on_train_batch_start(trainer(2000), None, batch("a:1", "a:2"), 0)
    callback.on_train_batch_start(trainer(2000), None, batch("a:2"), 0)
    with pytest.raises(DataError, match=r"3 of 2000 training images .* the 0.1 % .*: a:1, a:2, a:3. .*bad_samples.csv"):
        callback.on_train_batch_start(trainer(2000), None, batch("a:3"), 0)


def test_the_count_goes_on_after_a_resume(tmp_path: Path) -> None:
    before: Any = BadSamples(tmp_path, 0.001)
    before.on_train_batch_start(trainer(1000), None, batch("a:1"), 0)
    after: Any = BadSamples(tmp_path, 0.001)
    after.load_state_dict(before.state_dict())
    after.on_train_batch_start(trainer(1000), None, batch("a:1"), 0)
    with pytest.raises(DataError, match="2 of 1000"):
        after.on_train_batch_start(trainer(1000), None, batch("a:2"), 0)


def test_without_bad_samples_there_is_no_list(tmp_path: Path) -> None:
    callback: Any = BadSamples(tmp_path, 0)
    callback.on_train_batch_start(trainer(10), None, batch(), 0)
    callback.on_train_epoch_end(trainer(10), None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fraction", [-0.1, 1, "much"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, fraction: Any) -> None:
    with pytest.raises(ConfigError, match=r"callbacks.bad_samples.max_fraction must be a number"):
        BadSamples(tmp_path, fraction)
