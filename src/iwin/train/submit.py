"""Submitting runs to Slurm: one as a job, the cells of a sweep as an array."""

from __future__ import annotations

import copy
import json
import os
import shlex
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict, read_write

from iwin.errors import ConfigError
from iwin.runtime import code_version
from iwin.secrets import secrets_in
from iwin.train import requeue
from iwin.train.cell import told_cell
from iwin.train.durable import put_text
from iwin.train.launcher_keys import check_launcher, parameters
from iwin.train.run_folder import run_path, shown
from iwin.train.slurm import SUBMITTED_VARIABLE, in_queue
from iwin.train.submitted import keep
from iwin.train.sweep import Sweep

LOGS = "slurm"  # in the folder of the run or the sweep: what jobs print, their configurations, and submitit's files
JOB = "job"  # among them, of a run alone: the job that it was given to last
# What tells a process of its job, or of the others that train with it; but what a site may set for all of its Slurm.
OF_JOB = ("SLURM_", "SLURMD_", "MASTER_", "TORCHELASTIC_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SITES_OWN = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_MPI_TYPE", "SLURM_TIME_FORMAT")


@dataclass(frozen=True)
class ToSubmit:
    """folder: of a cell, which its run is told; None for a run alone, which finds its own. composed: by Hydra."""

    number: int
    overrides: list[str]
    folder: Path | None
    composed: DictConfig


class Submission:
    """The jobs of one command. launcher: the keys of conf/hydra/launcher/slurm.yaml.

    alone: one run, which goes where the same command without Slurm would go.

    Raises:
        ConfigError: a key of the launcher cannot be used, there is no Slurm here, no submitit, or this is not train.py.
    """

    def __init__(self, launcher: Mapping[str, Any], alone: bool) -> None:
        check_launcher(launcher)
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
        self,
        overrides: list[str],
        composed: DictConfig,
        usable: Callable[[Sweep | None, DictConfig], dict[str, Any] | None],
    ) -> None:
        """A cell, which is Hydra's present job. Not where it has an end already or is in the queue: that is said.

        composed: by Hydra, with its own part. usable: the rest of it as plain values; for one that cannot be used
        None, if a sweep has noted that, or ConfigError.
        """
        if HydraConfig.get().job.config_name != "train":
            raise ConfigError("hydra/launcher=slurm submits train.py alone: run eval.py in a job of your own")
        if not self.alone:
            self._sweep = self._sweep or Sweep()
        cfg = without_hydras(composed)
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
            earlier = self.logs / JOB
            if earlier.is_file() and in_queue(earlier.read_text()):
                print(f"The run in {shown(self.logs.parent)} is Slurm job {earlier.read_text()}.", flush=True)
                return
        self._secrets |= secrets_in(config)
        self.jobs.append(ToSubmit(int(HydraConfig.get().job.num), overrides, folder, composed))

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
        if self.logs is not None and names:
            put_text(self.logs / JOB, names[0])
        self._say(names)

    def _submit(self, job: Callable[[tuple[str, ...], dict[str, str]], Callable[[], Any]]) -> list[str]:
        import submitit

        assert self.logs is not None
        self.logs.mkdir(parents=True, exist_ok=True)
        if self._secrets:  # submitit writes down the command of every job
            self.logs.chmod(0o700)
        program, code, mark = str(Path(sys.argv[0]).resolve()), json.dumps(code_version()), uuid.uuid4().hex
        jobs = []
        for one in self.jobs:
            environment = {SUBMITTED_VARIABLE: code, "PYTHONUNBUFFERED": "1"}
            environment |= keep(one.composed, self.logs / f"config-{mark}-{one.number}.yaml")
            environment |= {} if one.folder is None else told_cell(0, one.folder)
            jobs.append(job((sys.executable, program, *one.overrides, "hydra.mode=RUN"), environment))
        # submitit's own srun gives every process a terminal, whose control codes would fill the logs.
        srun = shlex.join(["srun", *(self.launcher.get("srun_args") or ())])
        executor = submitit.AutoExecutor(
            folder=self.logs, cluster="slurm", slurm_python=f"{srun} {shlex.quote(sys.executable)}"
        )
        end = f"{shlex.quote(sys.executable)} {shlex.quote(requeue.__file__)} $?{self._cells(mark)}"
        executor.update_parameters(**parameters(self.launcher, end))
        try:
            with outside_of_jobs(), executor.batch():
                submitted = [executor.submit(one) for one in jobs]
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"hydra.launcher: {str(error).strip()}") from error
        return [one.job_id for one in submitted]

    def _cells(self, mark: str) -> str:
        """What tells the end of a job where its cell is."""
        if self._sweep is None:
            return ""
        assert self.logs is not None
        file = self.logs / f"cells-{mark}.json"
        folders = [str(one.folder) for one in self.jobs]
        file.write_text(json.dumps({"logs": str(self.logs), "folders": folders}) + "\n")
        return f" --cells {shlex.quote(str(file))}"

    def _say(self, names: list[str]) -> None:
        if not names:
            print("Nothing is left to submit.", flush=True)
            return
        assert self.logs is not None
        job = names[0].partition("_")[0]
        most = self.launcher["array_parallelism"]
        cells = "" if len(names) == 1 else f", {len(names)} cells, {most} at a time at most"
        print(f"Submitted Slurm job {job}{cells}")
        print(f"Logs      {shown(self.logs)}/{job}_*")
        print(f"Watch     squeue --jobs {job}", flush=True)


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Meanwhile the environment is that of a process in no Slurm job: sbatch hands it on to what is submitted."""
    in_job = "SLURM_JOB_ID" in os.environ
    told = [name for name in os.environ if in_job and name.startswith(OF_JOB) and name not in SITES_OWN]
    gone = {name: os.environ.pop(name) for name in told}
    try:
        yield
    finally:
        os.environ.update(gone)


def without_hydras(composed: DictConfig) -> DictConfig:
    """What Hydra hands over of a configuration that it has composed: all but its own part."""
    config = copy.deepcopy(composed)
    with read_write(config), open_dict(config):
        del config["hydra"]
    return config


def _remove_hydras(folder: Path) -> None:
    """The folder that Hydra makes for several runs, with the configuration as it was given, secrets included."""
    (folder / "multirun.yaml").unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
