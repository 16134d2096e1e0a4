"""`iwin export checkpoint=FILE format=onnx|torch_export`: a model as one file for others to run.

The file takes batches of any size. Before the command says that it succeeded, the exported file has been
read back and run, and its outputs agree with the model's.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iwin.errors import ConfigError, near_names
from iwin.models.protocol import WindowTransformer
from iwin.train.run_folder import find_checkpoint
from iwin.weights.load import load_pretrained
from iwin.weights.read import read_weights

ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2"}
KEYS = ("checkpoint", "format", "out")
BATCHES = (1, 2, 5)
TOLERANCE = 1e-4  # of the largest logit; fused and reordered float32 sums stay well below it


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The subcommand `export`."""
    parser = subparsers.add_parser(
        "export",
        help="a model as ONNX or torch.export file",
        description=f"Export a model. {__doc__.splitlines()[-1] if __doc__ else ''}",
    )
    parser.add_argument(
        "keys", nargs="+", metavar="KEY=VALUE", help="checkpoint=FILE format=onnx|torch_export [out=FILE]"
    )
    parser.set_defaults(func=lambda arguments: export(**_keys(arguments.keys)))


def _keys(pairs: list[str]) -> dict[str, str]:
    keys = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in KEYS:
            raise ConfigError(f"{pair!r} is none of checkpoint=, format=, out=; {near_names(key, KEYS)}")
        keys[key] = value
    for key in ("checkpoint", "format"):
        if key not in keys:
            raise ConfigError(f"{key}= is missing: iwin export checkpoint=FILE format=onnx|torch_export")
    return keys


def export(checkpoint: str, format: str, out: str | None = None) -> None:
    """Write the model of `checkpoint` (of a run, or what `iwin convert` wrote) to `out`, beside it by default.

    ConfigError for another format, a file that exists, or a missing package; RuntimeError where the
    exported model's outputs differ, and nothing is left behind.
    """
    if format not in ENDINGS:
        raise ConfigError(f"format={format}: {near_names(format, ENDINGS)}")
    for package in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"format=onnx needs the package {package}: pip install 'iwin[export]' -c constraints.txt")
    source = find_checkpoint(checkpoint)
    path = Path(out) if out else source.with_suffix(ENDINGS[format])
    if path.exists():
        raise ConfigError(f"{path} exists: give another with out=")
    if not path.parent.is_dir():
        raise ConfigError(f"out={path}: there is no folder {path.parent}")
    config = read_weights(source).config
    if config is None:
        raise ConfigError(f"{source} does not carry its configuration: write it with iwin convert first")
    model = WindowTransformer(**config).eval()
    load_pretrained(model, source)
    beside = path.with_name(f".{path.name}.new")
    try:
        run = {"onnx": _onnx, "torch_export": _torch_export}[format](model, beside)
        worst = max(_difference(model, run, batch) for batch in BATCHES)
        if worst > TOLERANCE:
            raise RuntimeError(f"the exported model differs from the model by {worst:.1e} of the largest logit")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{path}: agrees with the model within {worst:.1e} of the largest logit, for batches of {BATCHES}")


def _example(model: WindowTransformer, batch: int) -> Tensor:
    torch.manual_seed(batch)
    return torch.randn(batch, model.in_chans, *model.img_size)


def _difference(model: WindowTransformer, run: Callable[[Tensor], Tensor], batch: int) -> float:
    x = _example(model, batch)
    with torch.no_grad():
        expected = model(x)
    return float((run(x).detach() - expected).abs().max() / expected.abs().max())


def _torch_export(model: WindowTransformer, path: Path) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(model, (_example(model, 2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        loaded = torch.export.load(file).module()
    return lambda x: loaded(x)


def _onnx(model: WindowTransformer, path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    torch.onnx.export(
        model,
        (_example(model, 2),),
        str(path),
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": x.numpy().astype(np.float32)})
        return torch.from_numpy(logits)

    return run
