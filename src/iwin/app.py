"""The way from a command line to a run: compose the configuration, hand it over, say what went wrong."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iwin.allowed import check_targets, checked_composition
from iwin.conf import check_keys, conf_dir, groups, options
from iwin.errors import ConfigError, UserError, near_names
from iwin.exit_codes import DEFECT, USER_ERROR
from iwin.imports import no_collection
from iwin.secrets import redacted_output, secrets_in
from iwin.train.submitted import submitted_composition

TRACEBACK_VARIABLE = "HYDRA_FULL_ERROR"
# Lightning's warnings that say nothing to our users: its own use of torch; a folder that a run goes on in,
# which is announced; epochs shorter than the logging interval; the number of workers, which is configured;
# under DDP the strides of depthwise kernels, a few KB that are copied once more; a Slurm whose jobs this is not in.
QUIET = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"Checkpoint directory .* exists and is not empty",
    r"The number of training batches .* is smaller than the logging interval",
    r"The '\w+_dataloader' does not have many workers",
    r"Grad strides do not match bucket view strides",
    r"The `srun` command is available on your system but is not used",
)


def _nothing() -> None:
    pass


_restore: Callable[[], None] = _nothing  # undoes in the environment what is there for Hydra alone


def register() -> None:
    """Make known to Hydra what the configuration files refer to: the zoo's sizes, the package's own files."""
    from iwin.models.zoo import SIZES

    store = ConfigStore.instance()
    for name, size in SIZES.items():
        store.store(group="size", name=name, node=size.numbers())
    resolvers: dict[str, Callable[..., Any]] = {
        "iwin_package": lambda path: str(Path(__file__).parent / path),
        "iwin_sweep": _sweep_name,
        "iwin_mode": _mode,
        "iwin_pick": lambda key, table, other: table.get(key, other),
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def main(program: str) -> None:
    """Run train.py or eval.py. Errors that are the user's end in a message and exit code 2.

    Meanwhile nothing that a configuration names is made unless it is allowed (see allowed.py), files of weights
    are loaded as weights alone, whoever loads them, and no secret is printed. A submitted job has the configuration of
    its submission.
    """
    secrets = secrets_in(sys.argv[1:])
    with redacted_output(secrets), submitted_composition(), checked_composition(), _weights_only():
        _main(program, secrets)


def _main(program: str, secrets: set[str]) -> None:
    register()
    # Hydra would print its own errors and end the process; with this set it raises them. The user's own
    # setting still decides whether a traceback is shown.
    before = os.environ.get(TRACEBACK_VARIABLE)
    wants_traceback = before == "1"
    os.environ[TRACEBACK_VARIABLE] = "1"

    def restore() -> None:
        os.environ.pop(TRACEBACK_VARIABLE, None)
        if before is not None:
            os.environ[TRACEBACK_VARIABLE] = before

    global _restore
    _restore = restore
    sweep: Any = None  # Sweep, once there is one

    def job(cfg: DictConfig) -> None:
        nonlocal sweep
        restore()  # for the processes that a run starts
        secrets.update(secrets_in(OmegaConf.to_container(cfg, resolve=False)))
        import lightning  # noqa: F401  (sets the level of its logger at import)

        for name in ("lightning.pytorch", "lightning.fabric"):  # the run's table says what they would
            logging.getLogger(name).setLevel(logging.WARNING)
        for message in QUIET:
            warnings.filterwarnings("ignore", message)
        try:
            if program == "train" and HydraConfig.get().mode == RunMode.MULTIRUN:
                from iwin.train.sweep import Sweep

                sweep = sweep or Sweep()
                _run_cell(sweep, cfg)
                return
            check_targets(cfg)
            check_keys(cfg)
            with no_collection():  # here, as a sweep does without
                if program == "train":
                    from iwin.train.fit import fit as act
                else:
                    from iwin.train.evaluate import evaluate as act
            act(cfg)
        except (UserError, InstantiationException, OmegaConfBaseException) as error:
            if wants_traceback:
                raise
            _say(explain(error, program))
            sys.exit(USER_ERROR)
        except Exception:
            if sweep is None:
                raise
            traceback.print_exc()  # Hydra would keep it until all other cells have run
            sys.exit(DEFECT)

    try:
        if any(arg.startswith("--e") for arg in sys.argv[1:]):  # Hydra takes shortened options
            raise ConfigError(
                "Hydra's --experimental-rerun would load a pickle, which can run any code: give the overrides"
            )
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=program)(job)()
        if sweep is not None:
            sys.exit(sweep.finish())
    except (HydraException, OmegaConfBaseException, UserError) as error:
        if wants_traceback:
            raise
        _say(explain(error, program))
        sys.exit(USER_ERROR)
    finally:
        restore()


def _mode(*, _root_: Any) -> str | None:
    """Hydra's for a command without -m: its launchers are for several runs, and Slurm's for a single one as well."""
    launcher = OmegaConf.select(_root_, "hydra.runtime.choices", default={}).get("hydra/launcher")
    return RunMode.MULTIRUN.name if launcher == "slurm" else None


def _sweep_name(sweep: str | None, data: str) -> str:
    from iwin.train.sweep import sweep_name

    return sweep_name(sweep, data)


def _run_cell(sweep: Any, cfg: DictConfig) -> None:
    """Run the cell of a sweep that `cfg` is; where that cannot be used, the others run all the same."""
    config = cell_config(sweep, cfg)
    if config is not None:
        sweep.run(config, retry_failed=cfg.retry_failed)


def cell_config(sweep: Any, cfg: DictConfig, launcher: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """`cfg` as plain values; where it cannot be used, the sweep is told. Raises ConfigError where there is none.

    launcher: the keys of Slurm's, where that is to start it.
    """
    from iwin.train.build import plain_config
    from iwin.train.elsewhere import check_elsewhere, check_launched

    try:
        check_targets(cfg)
        check_keys(cfg)
        config = plain_config(cfg)
        check_elsewhere(config, HydraConfig.get().runtime.choices["model"])
        if launcher is not None:
            check_launched(config["trainer"], launcher)
        return config
    except (UserError, OmegaConfBaseException) as error:
        if sweep is None:
            raise
        sweep.refuse(explain(error, "train"))
        return None


@contextmanager
def given_environment() -> Iterator[None]:
    """Meanwhile the environment is what the user gave, for what is started then: Hydra has its own setting else."""
    now = os.environ.get(TRACEBACK_VARIABLE)
    _restore()
    try:
        yield
    finally:
        if now is not None:
            os.environ[TRACEBACK_VARIABLE] = now


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch.load loads weights alone, also where a library asks for more, here and in processes started meanwhile."""
    variables = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None}
    before = {name: os.environ.get(name) for name in variables}

    def set_to(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    set_to(variables)
    try:
        yield
    finally:
        set_to(before)


def _say(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)


def explain(error: Exception, program: str) -> str:
    """Hydra's errors in a line, with the names that are near to what was written."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: there is no such {group}; {near_names(name, options(group))}"
    if isinstance(error, UserError):
        # From a data worker, torch raises it again with the worker's traceback in its message.
        return str(error).rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2]
    text = str(error).strip()
    if isinstance(error, InstantiationException):  # raised while a part of the configuration was being made
        cause = error.__cause__
        place = re.search(r"full_key: (\S+)", text)
        where = f"{place[1]}: " if place else ""
        return (
            str(cause)
            if isinstance(cause, UserError)
            else f"{where}{cause or text} ({TRACEBACK_VARIABLE}=1 shows where)"
        )
    missing = re.search(r"In '[^']*': Could not find '([^']+)/([^'/]+)'", text)
    if missing:
        group, name = missing.groups()
        return f"{group}={name}: there is no such {group}; {near_names(name, options(group))}"
    override = re.search(r"Could not (?:override|append to config).*?'([^']+)'", text)
    if isinstance(error, ConfigCompositionException) and override:
        key = override[1].lstrip("+~").partition("=")[0].partition("@")[0]
        from iwin.train.checks import INSTEAD

        if key.removeprefix("trainer.") in INSTEAD:
            return f"{key} has no place here: {INSTEAD[key.removeprefix('trainer.')]}"
        return f"there is no key {key!r}; {near_names(key, _known_keys(program))}"
    return text.splitlines()[0]


def _known_keys(program: str) -> list[str]:
    """Every key of the configuration as it is by default, dotted, and the groups."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = OmegaConf.to_container(compose(program), resolve=False)
    keys: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                keys.append(f"{prefix}{key}")
                walk(value, f"{prefix}{key}.")

    walk(config, "")
    return [*keys, *groups()]
