"""The job that the doctor examines a machine for: the numbers of a training configuration that make demands on it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import hydra
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from iwin.allowed import check_targets, checked_composition
from iwin.app import explain, register
from iwin.conf import check_keys, conf_dir
from iwin.errors import ConfigError

CLASSES = 1000  # where the data set tells their number only once it is opened
BYTES_A_PARAMETER = 16  # in a checkpoint: the weight, AdamW's two averages, and an average of the weights; float32


class Job(NamedTuple):
    """What one node has to bear.

    ranks: training processes on the node. workers: data processes of each rank, in training and as many in
    evaluation. prefetch: batches that each keeps ready. train_batch, eval_batch: bytes of one, as workers make it.
    precision: as Lightning's. checkpoint: bytes of one. runs: where the run folders go.
    """

    ranks: int
    workers: int
    prefetch: int
    train_batch: int
    eval_batch: int
    precision: str
    checkpoint: int
    runs: Path


def configure(overrides: list[str]) -> DictConfig:
    """The configuration that train.py would have. ConfigError where it does not compose or names what may not be."""
    return configure_with_choices(overrides)[0]


def configure_with_choices(overrides: list[str]) -> tuple[DictConfig, dict[str, str | None]]:
    """As `configure`, and which option of each group was chosen."""
    register()
    try:
        with checked_composition(), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, "train")) from error
    finally:
        GlobalHydra.instance().clear()
    HydraConfig.instance().set_config(config)  # as train.py has it: what asks for ${hydra:...} finds it
    with open_dict(config):
        choices = dict(config.pop("hydra").runtime.choices)
    check_targets(config)
    check_keys(config)
    return config, choices


def job_of(config: DictConfig, runs: Path | None = None) -> Job:
    """The demands of `config` on this node. runs: in place of paths.runs_dir."""
    data = config.data
    size = data.image_size
    pixels = size * size if isinstance(size, int) else size[0] * size[1]
    return Job(
        ranks=ranks_of(config.trainer.devices),
        workers=data.num_workers,
        prefetch=data.prefetch,
        train_batch=data.batch_size * pixels * 3,
        eval_batch=data.eval_batch_size * pixels * 3,
        precision=str(config.trainer.precision),
        checkpoint=BYTES_A_PARAMETER * parameters_of(config),
        runs=Path(config.paths.runs_dir if runs is None else runs).expanduser().absolute(),
    )


def ranks_of(devices: object) -> int:
    """Training processes on a node for `trainer.devices`: a number, a list of devices, or what Lightning would take."""
    if isinstance(devices, int) and devices > 0:
        return devices
    if not isinstance(devices, int | str) and hasattr(devices, "__len__"):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    if isinstance(devices, str) and devices.isdigit():
        return int(devices)
    return max(1, torch.cuda.device_count())


def parameters_of(config: DictConfig) -> int:
    """The number of the model's parameters, without making them."""
    keys = {"num_classes": CLASSES} if config.data.num_classes is None else {}
    with torch.device("meta"):
        model = instantiate(config.model, _recursive_=False, _convert_="all", **keys)
    return sum(parameter.numel() for parameter in model.parameters())
