"""Submitting runs to Slurm: one as a job, the cells of a sweep as an array."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from iwin.errors import ConfigError
from iwin.runtime import code_version
from iwin.secrets import secrets_in
from iwin.train import requeue
from iwin.train.cell import told_cell
from iwin.train.run_folder import run_path, shown
from iwin.train.slurm import SUBMITTED_VARIABLE
from iwin.train.sweep import Sweep

LOGS = "slurm"  # in the folder of the run or the sweep: what jobs print, and submitit's files
# As submitit names what it knows of any scheduler; the rest has slurm_ before it.
ANY_SCHEDULER = ("name", "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem_gb", "timeout_min")
# A signal to all of a job reaches its script as well, which is to see how srun ends. srun would else not know of
# --cpus-per-task, and have a process and its data workers share one core.
FIRST_LINES = ("trap : TERM USR1 USR2", "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}")


@dataclass(frozen=True)
class ToSubmit:
    """folder: of a cell, which its run is told; None for a run alone, which finds its own."""

    number: int
    overrides: list[str]
    folder: Path | None


class Submission:
    """The jobs of one command. launcher: the keys of conf/hydra/launcher/slurm.yaml.

    alone: one run, which goes where the same command without Slurm would go.

    Raises:
        ConfigError: there is no Slurm here, no submitit, or this is not train.py.
    """

    def __init__(self, launcher: Mapping[str, Any], alone: bool) -> None:
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ConfigError("hydra/launcher=slurm needs submitit: pip install 'iwin[slurm]'") from error
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise ConfigError("hydra/launcher=slurm: there is no sbatch on this machine; submit from a login node")
        self.launcher = launcher
        self.alone = alone
        self.jobs: list[ToSubmit] = []
        self.logs: Path | None = None
        self._sweep: Sweep | None = None
        self._secrets: set[str] = set()

    def add(
        self, overrides: list[str], cfg: DictConfig, usable: Callable[[Sweep | None, DictConfig], dict[str, Any] | None]
    ) -> None:
        """A cell, which is Hydra's present job. Not where it has an end already or is in the queue: that is said.

        usable: its configuration as plain values; for one that cannot be used None, if a sweep has noted that, or
        ConfigError.
        """
        if HydraConfig.get().job.config_name != "train":
            raise ConfigError("hydra/launcher=slurm submits train.py alone: run eval.py in a job of your own")
        if not self.alone:
            self._sweep = self._sweep or Sweep()
        config = usable(self._sweep, cfg)
        if config is None:
            return
        folder: Path | None = None
        if self._sweep is not None:
            folder = self._sweep.take(config, cfg.retry_failed, "waiting")
            if folder is None:
                return
            self.logs = self._sweep.folder / LOGS
        else:
            self.logs = run_path(Path(cfg.paths.runs_dir), config) / LOGS
            _remove_hydras(Path(HydraConfig.get().sweep.dir))
        self._secrets |= secrets_in(config)
        self.jobs.append(ToSubmit(int(HydraConfig.get().job.num), overrides, folder))

    def send(self, job: Callable[[tuple[str, ...], dict[str, str]], Callable[[], Any]]) -> None:
        """Submit what was added, and say what it has become. job: makes a job of a command and an environment.

        ConfigError where Slurm or submitit do not take it; SystemExit for a sweep, with its exit code.
        """
        names = self._submit(job) if self.jobs else []
        if self._sweep is not None:
            numbers = [one.number for one in self.jobs]
            self._sweep.give(dict(zip(numbers, names, strict=True)))
            code = self._sweep.finish()
            self._say(names)
            sys.exit(code)
        self._say(names)

    def _submit(self, job: Callable[[tuple[str, ...], dict[str, str]], Callable[[], Any]]) -> list[str]:
        import submitit

        assert self.logs is not None
        self.logs.mkdir(parents=True, exist_ok=True)
        if self._secrets:  # submitit writes down the command of every job
            self.logs.chmod(0o700)
        program, code = str(Path(sys.argv[0]).resolve()), json.dumps(code_version())
        jobs = []
        for one in self.jobs:
            environment = {SUBMITTED_VARIABLE: code, "PYTHONUNBUFFERED": "1"}
            environment |= {} if one.folder is None else told_cell(0, one.folder)
            jobs.append(job((sys.executable, program, *one.overrides, "hydra.mode=RUN"), environment))
        # submitit's own srun gives every process a terminal, whose control codes would fill the logs.
        srun = shlex.join(["srun", *self.launcher.get("srun_args", ())])
        executor = submitit.AutoExecutor(
            folder=self.logs, cluster="slurm", slurm_python=f"{srun} {shlex.quote(sys.executable)}"
        )
        try:
            executor.update_parameters(**self._parameters())
            with executor.batch():
                submitted = [executor.submit(one) for one in jobs]
        except NameError as error:  # submitit's for a key that it does not have
            raise ConfigError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
        except (ValueError, TypeError, submitit.core.utils.FailedJobError) as error:
            raise ConfigError(f"hydra.launcher: {str(error).strip()}") from error
        return [one.job_id for one in submitted]

    def _parameters(self) -> dict[str, Any]:
        """For submitit, from the launcher's keys."""
        keys = {key: value for key, value in self.launcher.items() if value is not None}
        keys.setdefault("tasks_per_node", keys.get("gpus_per_node") or 1)
        requeued = "requeue" if keys.pop("requeue") else "no-requeue"
        keys["additional_parameters"] = {requeued: True, **keys["additional_parameters"]}
        keys["setup"] = [*FIRST_LINES, *keys["setup"]]
        keys["use_srun"] = False
        keys.pop("srun_args", None)
        keys["teardown"] = [f"{shlex.quote(sys.executable)} {shlex.quote(requeue.__file__)} $?{self._cells()}"]
        return {key if key in ANY_SCHEDULER else f"slurm_{key}": value for key, value in keys.items()}

    def _cells(self) -> str:
        """What tells the end of a job where its cell is."""
        if self._sweep is None:
            return ""
        assert self.logs is not None
        file = self.logs / f"cells-{uuid.uuid4().hex}.json"
        folders = [str(one.folder) for one in self.jobs]
        file.write_text(json.dumps({"logs": str(self.logs), "folders": folders}) + "\n")
        return f" --cells {shlex.quote(str(file))}"

    def _say(self, names: list[str]) -> None:
        if not names:
            print("Nothing is left to submit.", flush=True)
            return
        assert self.logs is not None
        job = names[0].partition("_")[0]
        cells = (
            "" if len(names) == 1 else f", {len(names)} cells, {self.launcher['array_parallelism']} at a time at most"
        )
        print(f"Submitted Slurm job {job}{cells}")
        print(f"Logs      {shown(self.logs)}/{job}_*")
        print(f"Watch     squeue --jobs {job}", flush=True)


def _remove_hydras(folder: Path) -> None:
    """The folder that Hydra makes for several runs, with the configuration as it was given, secrets included."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
