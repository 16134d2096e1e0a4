"""What is submitted to Slurm: an sbatch that writes down what it was given stands for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from submitit.core.utils import DelayedSubmission

from iwin.train.slurm import SUBMITTED_VARIABLE
from iwin.train.submitted import CONFIG_VARIABLE

Submit = Callable[..., str]
AUTO = ("trainer.devices=auto", "trainer.accelerator=auto")
SBATCH = """#!/bin/sh
env > "$HERE/environment"
cp "$1" "$HERE/script"
echo >> "$HERE/count"
echo "Submitted batch job 7"
"""
SQUEUE = '#!/bin/sh\ntest ! -e "$HERE/queued" || echo RUNNING\n'
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("submitit", "hydra_plugins.hydra_submitit_launcher")):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
from iwin.app import main
main("train")
"""


class Slurm:
    """What it was given: how often, with which environment, and the script."""

    def __init__(self, here: Path) -> None:
        self.here = here
        self.runs = here / "runs"

    @property
    def count(self) -> int:
        file = self.here / "count"
        return len(file.read_text().splitlines()) if file.is_file() else 0

    @property
    def environment(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.here / "environment").read_text().splitlines() if "=" in line)

    def job(self) -> Any:
        """What the one job that was submitted does."""
        (file,) = self.runs.glob("*/slurm/7_submitted.pkl")
        return DelayedSubmission.load(file).function


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": "#!/bin/sh\nexit 3\n", "squeue": SQUEUE}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    return Slurm(tmp_path)


@pytest.fixture
def submit(program, slurm: Slurm) -> Submit:
    """Give a command; returns what it printed."""
    return lambda *args: program("train", *args, f"paths.runs_dir={slurm.runs}", "hydra/launcher=slurm")


def refused(capsys: pytest.CaptureFixture, submit: Submit, *args: str) -> str:
    with pytest.raises(SystemExit) as ended:
        submit(*args)
    assert ended.value.code == 2
    return capsys.readouterr().err.strip()


def start(program, monkeypatch: pytest.MonkeyPatch, job: Any, *options: str) -> str:
    """Start the job's program as Slurm would, in this process."""
    for name, value in job.environment.items():
        monkeypatch.setenv(name, value)
    return program("train", *job.command[2:], *options)


def test_a_job_has_the_configuration_of_its_submission(
    program, slurm: Slurm, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = slurm.here / "more" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\nduration: 7ep\n")
    submit(f"--config-dir={slurm.here}/more", "experiment=mine", "seed=3")
    job = slurm.job()
    mine.unlink()  # nothing of this name composes any more
    monkeypatch.setenv("IWIN_CACHE", "/scratch/of/this/job")
    told = OmegaConf.create(start(program, monkeypatch, job, "--cfg", "job", "--resolve"))
    assert (told.duration, told.seed, told.paths.cache_dir) == ("7ep", 3, "/scratch/of/this/job")
    for name in job.environment:
        monkeypatch.delenv(name)
    assert OmegaConf.create(program("train", "--cfg", "job")).seed == 0
    assert SUBMITTED_VARIABLE in job.environment


@pytest.mark.slow
def test_the_run_is_in_the_folder_of_its_submission(
    program, slurm: Slurm, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = slurm.here / "more" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\nseed: 5\n")
    short = ("duration=1ep", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "schedule.warmup=1st")
    submit(f"--config-dir={slurm.here}/more", "experiment=mine", "data.num_workers=0", *short)
    mine.write_text("# @package _global_\nseed: 6\n")
    job = slurm.job()
    start(program, monkeypatch, job)
    (folder,) = slurm.runs.iterdir()
    assert (folder / "result.json").is_file()
    assert (folder / "slurm").is_dir()
    assert OmegaConf.load(folder / "config.yaml").seed == 5


def test_what_may_hold_a_secret_is_the_owner_s_alone(slurm: Slurm, submit: Submit) -> None:
    submit("data=in1k", "data.root=https://me:hunter22@host/in1k")
    file = Path(slurm.job().environment[CONFIG_VARIABLE])
    assert "hunter22" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("task._target_", "os.system", "task._target_=os.system may not be named"),
        ("hydra.callbacks.mine", {"_target_": "os.system"}, "hydra.callbacks.mine._target_=os.system may not be named"),
        ("nonsense", 1, "there is no key 'nonsense'"),
    ],
)
def test_a_configuration_that_was_changed_is_checked_as_any(
    program, capsys, slurm: Slurm, submit: Submit, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, said: str
) -> None:
    submit()
    job = slurm.job()
    config = OmegaConf.load(job.environment[CONFIG_VARIABLE])
    OmegaConf.update(config, key, value, force_add=True)
    OmegaConf.save(config, job.environment[CONFIG_VARIABLE])
    with pytest.raises(SystemExit) as ended:
        start(program, monkeypatch, job)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "task: !!python/object/apply:os.mkdir [made]", "task: ["])
def test_a_configuration_that_cannot_be_read_is_an_error(
    program, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("config.yaml").write_text(text)
    monkeypatch.setenv(CONFIG_VARIABLE, "config.yaml")
    with pytest.raises(SystemExit) as ended:
        program("train")
    assert ended.value.code == 2
    assert "submit the run anew" in capsys.readouterr().err
    assert not Path("made").exists()


def test_a_run_that_is_queued_is_not_submitted_twice(slurm: Slurm, submit: Submit) -> None:
    assert "Submitted Slurm job 7" in submit()
    (slurm.here / "queued").touch()
    again = submit("log_every=3st")  # which makes no other run of it
    assert "is Slurm job 7." in again
    assert "Nothing is left to submit." in again
    assert slurm.count == 1
    submit("seed=1")
    (slurm.here / "queued").unlink()
    submit()
    assert slurm.count == 3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("hydra.launcher.timeout_min=24h",), "hydra.launcher.timeout_min must be a whole number"),
        (("hydra.launcher.setup=foo",), "hydra.launcher.setup must be a list of texts"),
        (("trainer.precision=64",), "trainer.precision=64"),
        (("seed=-1",), "seed must be"),
        (("trainer=fsdp",), "trainer=fsdp does not go with callbacks.ema"),
        (("trainer.devices=4", "hydra.launcher.gpus_per_node=8"), "trainer.devices=4"),
        (("trainer.num_nodes=2",), "trainer.num_nodes=2"),
        ((*AUTO, "hydra.launcher.gpus_per_node=8", "hydra.launcher.tasks_per_node=4"), "trainer.devices=4"),
        ((*AUTO, "hydra.launcher.gpus_per_node=4", "hydra.launcher.tasks_per_node=8"), "a device of its own"),
    ],
)
def test_what_could_not_start_is_not_queued(
    capsys, slurm: Slurm, submit: Submit, overrides: tuple[str, ...], said: str
) -> None:
    error = refused(capsys, submit, *overrides)
    assert said in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert slurm.count == 0


def test_devices_need_not_be_where_a_run_is_submitted(slurm: Slurm, submit: Submit) -> None:
    given = ("trainer.precision=16-mixed", "trainer.accelerator=cuda", "trainer.devices=8", "trainer.num_nodes=2")
    submit(*given, "hydra.launcher.gpus_per_node=8", "hydra.launcher.nodes=2")
    script = (slurm.here / "script").read_text()
    assert "--ntasks-per-node=8\n" in script
    assert "--nodes=2\n" in script


def test_a_cell_that_could_not_start_stops_no_other(capsys, slurm: Slurm, submit: Submit) -> None:
    with pytest.raises(SystemExit) as ended:
        submit("-m", "trainer.precision=32-true,64")
    assert ended.value.code == 2  # the cell's
    assert "Submitted Slurm job 7\n" in capsys.readouterr().out
    assert slurm.count == 1


def test_the_lines_of_a_site_do_not_hide_how_the_run_ended(slurm: Slurm, submit: Submit) -> None:
    end = ["echo $SLURM_JOB_ID > $HERE/ended", "false", "exit 5"]
    submit("hydra.launcher.setup=[set -e]", f"+hydra.launcher.teardown={end}".replace("'", '"'))
    environment = {**os.environ, "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", slurm.here / "script"], env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr  # as srun does here
    assert (slurm.here / "ended").read_text() == "7\n"


def test_a_job_submitted_from_within_another_is_not_told_of_that(
    slurm: Slurm, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_site = {"SLURM_CONF": "/etc/elsewhere/slurm.conf", "SLURM_MPI_TYPE": "pmix", "SBATCH_ACCOUNT": "mine"}
    of_job = dict.fromkeys(("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURMD_NODENAME", "MASTER_ADDR"), "3")
    for name, value in (of_site | of_job).items():
        monkeypatch.setenv(name, value)
    submit()
    assert (of_site | of_job).items() <= slurm.environment.items()  # on a login node they are the user's
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    submit()
    assert of_site.items() <= slurm.environment.items()
    assert not (of_job.keys() | {"SLURM_JOB_ID"}) & slurm.environment.keys()
    assert os.environ["SLURM_JOB_ID"] == "3"


@pytest.mark.slow
def test_without_submitit_that_is_said(slurm: Slurm) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN, "hydra/launcher=slurm", f"paths.runs_dir={slurm.runs}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: hydra/launcher=slurm needs submitit: pip install 'iwin[slurm]'"
    )
    assert "Traceback" not in done.stderr
