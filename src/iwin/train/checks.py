"""What can be known to be wrong before anything is built."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.accelerators import CUDAAccelerator

from iwin.durations import parse
from iwin.errors import ConfigError, near_names, number, whole
from iwin.train.loggers import check_loggers

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
# Lightning's keys of length, and what says it here.
INSTEAD = {
    "max_epochs": "how long a run is, is duration=300ep",
    "max_steps": "how long a run is, is duration=2000st",
    "max_time": "a run is duration=300ep long; a scheduler's time limit ends it with everything saved",
    "check_val_every_n_epoch": "how often it is validated, is validate_every=1ep",
    "val_check_interval": "how often it is validated, is validate_every=1ep",
    "log_every_n_steps": "how often it is logged, is log_every=50st",
}
DURATIONS = ("duration", "validate_every", "log_every")


def check_trainer(trainer: dict[str, Any]) -> None:
    """Precision and counts of the trainer's configuration. ConfigError with what to set instead."""
    precision = str(trainer["precision"])
    if precision not in PRECISIONS:
        raise ConfigError(f"trainer.precision={precision}: {near_names(precision, PRECISIONS)}")
    accelerator = trainer["accelerator"]
    on_cuda = accelerator in ("cuda", "gpu") or (accelerator == "auto" and CUDAAccelerator.is_available())
    if accelerator in ("cuda", "gpu") and not CUDAAccelerator.is_available():
        raise ConfigError(f"trainer.accelerator={accelerator}, and there is no CUDA device here: set it to cpu or auto")
    if precision == "16-mixed" and not on_cuda:
        raise ConfigError("trainer.precision=16-mixed needs a CUDA device: a CPU has 32-true and bf16-mixed")
    if precision == "bf16-mixed" and on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(0)
        raise ConfigError(f"trainer.precision=bf16-mixed: {name} has no bfloat16; set 16-mixed or 32-true")
    for key, instead in INSTEAD.items():
        if trainer.get(key) is not None:
            raise ConfigError(f"trainer.{key} has no place here: {instead}")
    whole("trainer.accumulate_grad_batches", trainer["accumulate_grad_batches"], 1)
    if trainer["gradient_clip_val"] is not None:
        number("trainer.gradient_clip_val", trainer["gradient_clip_val"], 0)


def check_run(config: dict[str, Any], model_choice: str) -> None:
    """The keys that belong to no part alone. ConfigError with the value."""
    whole("seed", config["seed"], 0)
    for key in DURATIONS:
        if parse(config[key], key)[0] == 0:
            raise ConfigError(f"{key}={config[key]} must be above 0")
    if not isinstance(config["paths"]["runs_dir"], str):
        raise ConfigError(f"paths.runs_dir must be a folder, got {config['paths']['runs_dir']}")
    for group in ("callbacks", "logger"):
        for name, node in config[group].items():
            if node and "_target_" not in node:
                keys = ", ".join(f"{group}.{name}.{key}" for key in node)
                raise ConfigError(f"{keys}: there is no {name} among the {group} that were chosen, which would read it")
    check_loggers(config["logger"])
    name = config["model"].get("name", model_choice)
    if name != model_choice:
        raise ConfigError(f"model.name={name}: choose a model with model={name}, which brings its sizes and parts")


def check_image_size(model: torch.nn.Module, image_size: Any) -> None:
    """ConfigError where the data gives images of another size than the model was built for."""
    built = getattr(model, "img_size", None)
    if built is None or getattr(model, "dynamic", False):
        return
    given = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if tuple(built) != given:
        raise ConfigError(
            f"the model is built for images of {built[0]} x {built[1]} pixels, the data gives {given[0]} x {given[1]}: "
            f"set data.image_size, which model.img_size follows"
        )
