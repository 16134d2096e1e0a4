"""`iwin average A B ... --out FILE.safetensors`: the mean of the weights of several checkpoints of one model.

Of models that were fine-tuned from the same weights, with other seeds or recipes, the mean is often better than each
of them and costs no more to run: a uniform soup (Wortsman et al., arXiv 2203.05482). Of runs that began from
different weights it is worth nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iwin.errors import ConfigError, WeightsError
from iwin.models.protocol import WindowTransformer
from iwin.models.spec import image_size
from iwin.train.run_folder import find_checkpoint
from iwin.weights.config import differences, plan_of
from iwin.weights.load import load_pretrained
from iwin.weights.read import Weights, read_weights
from iwin.weights.save import save_weights


def add_parser(subparsers: Any) -> None:
    """Add `average` to the subparsers of `iwin`."""
    average = subparsers.add_parser(
        "average",
        help="the mean of the weights of several checkpoints",
        description="Write the mean of the weights of at least two checkpoints of one model, as safetensors with the "
        "model's configuration in a json beside it. Of a run's folder it takes what eval.py does: the best checkpoint, "
        "and in it the averaged weights where the run averages them.",
    )
    average.add_argument(
        "sources", type=Path, nargs="+", metavar="SOURCE", help="a run folder, a checkpoint of one, or safetensors"
    )
    average.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .safetensors file")
    average.set_defaults(func=average_command)


def average_command(arguments: argparse.Namespace) -> int:
    """Run `iwin average`. Raises ConfigError for sources that cannot be averaged, WeightsError for files that cannot
    be read, do not belong together, or exist already."""
    paths = _found(arguments.sources)
    model: WindowTransformer | None = None
    mean: Mean | None = None
    for path in paths:
        weights = read_weights(path)
        if weights.config is None:
            raise ConfigError(
                f"{path} does not carry the configuration of a model of ours: write it with iwin convert --model first"
            )
        if model is None or mean is None:
            model, mean = WindowTransformer(**weights.config), Mean()
        _check_same(weights, model, paths[0])
        report = load_pretrained(model, weights)
        changed = [*report.resized, *report.initialised]
        if changed:
            raise WeightsError(f"{path} is of another model than {paths[0]}: {changed[0]} differs")
        mean.add(model.state_dict(), str(path))
        print(f"Read      {path}, {len(report.loaded)} entries")
    assert model is not None
    assert mean is not None
    save_weights(arguments.out, mean.result(), model.config)
    print(f"Written   {arguments.out}, the mean of {len(paths)}")
    return 0


class Mean:
    """The mean of state dicts, summed in float64. Numbers that are no floats must be the same in all."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: dict[str, Tensor] = {}
        self._types: dict[str, torch.dtype] = {}

    def add(self, state: Mapping[str, Tensor], source: str) -> None:
        """Take one more. WeightsError, naming the entry and `source`, where it does not go with those before."""
        if self._count and self._sums.keys() != state.keys():
            (name, *_) = sorted(self._sums.keys() ^ state.keys())
            raise WeightsError(f"{source}: {name} is not in all of them")
        for name, tensor in state.items():
            wide = tensor.to(torch.float64, copy=True) if tensor.is_floating_point() else tensor.clone()
            if not self._count:
                self._sums[name], self._types[name] = wide, tensor.dtype
            elif (self._sums[name].shape, self._types[name]) != (tensor.shape, tensor.dtype):
                raise WeightsError(f"{source}: {name} is of another shape or type than in those before")
            elif tensor.is_floating_point():
                self._sums[name] += wide
            elif not torch.equal(self._sums[name], tensor):
                raise WeightsError(f"{source}: {name} holds whole numbers, which have no mean, and others than before")
        self._count += 1

    def result(self) -> dict[str, Tensor]:
        """The mean so far, each entry of its own type."""
        return {
            name: (total / self._count).to(self._types[name]) if total.is_floating_point() else total
            for name, total in self._sums.items()
        }


def _found(sources: Iterable[Path]) -> list[Path]:
    """The files that the sources mean. ConfigError for fewer than two, and for one that is named twice."""
    paths: list[Path] = []
    for source in sources:
        if not source.exists():
            raise ConfigError(f"{source}: there is no such file or run folder")
        path = find_checkpoint(str(source)).resolve()
        if path in paths:
            raise ConfigError(f"{source} is named twice: it would count twice")
        paths.append(path)
    if len(paths) < 2:
        raise ConfigError(f"a mean needs at least two checkpoints, got {paths[0]} alone")
    return paths


def _check_same(weights: Weights, model: WindowTransformer, first: Path) -> None:
    """WeightsError where the configurations differ in function, or in sizes that weights may be adapted to."""
    assert weights.config is not None
    theirs, ours = _sizes(weights.config), _sizes(model.config)
    found = list(differences(weights.config, model).values())
    found += [f"model.{key} is {theirs[key]} here and {ours[key]} there" for key in ours if theirs[key] != ours[key]]
    if found:
        raise WeightsError(f"{weights.source} is of another model than {first}: {'; '.join(found)}")


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """What loading may resize, or finds in the shapes alone."""
    plan = plan_of(config)
    stages = {"window_size": [stage.window for stage in plan], "kernel_sizes": [stage.kernel for stage in plan]}
    kept = {key: config[key] for key in ("dynamic", "num_classes", "mlp_ratio")}
    return {"img_size": list(image_size(config["img_size"])), **stages, **kept}
