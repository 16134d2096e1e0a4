"""`iwin plan` says what training then does, and fails with what training fails with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from iwin.errors import ConfigError
from iwin.models.zoo import create_model
from iwin.tools.cli import main
from iwin.tools.doctor.job import configure
from iwin.tools.plan.make import find_ranks
from iwin.train.metrics_csv import read_metrics

SHORT = ("duration=2ep", "data.num_workers=0", "log_every=1st")
CLUSTER = ("model=iwin_micro", "data=in1k", "data.image_size=32", "trainer.devices=8", "trainer.num_nodes=2")


@pytest.fixture
def plan(capsys: pytest.CaptureFixture, tmp_path: Path):
    """Plan with runs below tmp_path; returns the exit code and what --json printed."""

    def call(*args: str, runs: Path = tmp_path) -> tuple[int, dict[str, Any]]:
        code = main(["plan", f"paths.runs_dir={runs}", *args, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def refusal(program, capsys, *overrides: str) -> str:
    """What train.py says in refusing."""
    with pytest.raises(SystemExit) as ended:
        program("train", *overrides)
    assert ended.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("error: ")


def test_it_tells_a_run_and_touches_nothing(plan, tmp_path: Path) -> None:
    code, told = plan()
    assert (code, told["problems"], told["notes"]) == (0, [], [])
    assert told["model"]["parameters"] == told["model"]["trained"] == 1_641_994
    assert told["data"]["source"] == "index"
    assert (told["data"]["train"], told["data"]["validate"], told["data"]["classes"]) == (1438, 359, 10)
    batch = told["batch"]
    assert (batch["global_batch"], batch["per_epoch"], batch["epochs"], batch["updates"]) == (64, 22, 50, 1100)
    assert told["rate"] == pytest.approx(0.0015)
    assert told["run"]["start"] == "begin"
    assert [stage["convolution"] for stage in told["model"]["stages"]] == [3, None, None, None]
    assert list(tmp_path.iterdir()) == []


def test_devices_that_are_not_here_are_planned_for(plan) -> None:
    code, told = plan(*CLUSTER, "data.batch_size=64")
    assert told["ranks"] == {"devices": 8, "nodes": 2, "world": 16}
    assert told["batch"]["global_batch"] == 1024
    assert told["batch"]["updates"] == 300 * (1_281_167 // 1024)
    assert told["rate"] == pytest.approx(5e-4 * 1024 / 512)
    assert told["data"]["source"] == "known"
    assert told["memory"]["device"] == "cuda"
    (problem,) = told["problems"]
    assert "data set 'in1k'" in problem
    assert code == 2


@pytest.mark.parametrize(
    ("devices", "nodes", "accelerator", "world"),
    [("4", "auto", "auto", 4), ("[0,2]", "3", "gpu", 6), ("auto", "2", "cpu", 2), ("'0,1'", "1", "cuda", 2)],
)
def test_ranks_are_those_of_the_configuration(devices: str, nodes: str, accelerator: str, world: int) -> None:
    trainer = {"devices": devices, "num_nodes": nodes, "accelerator": accelerator}
    ranks = find_ranks(configure([f"trainer.{key}={value}" for key, value in trainer.items()]))
    assert ranks.world == world
    assert ranks.kind == ("cpu" if accelerator == "cpu" else "cuda")


@pytest.mark.parametrize(
    ("given", "ranks"),
    [
        (("nodes=2", "gpus_per_node=8"), {"devices": 8, "nodes": 2, "world": 16}),
        (("nodes=2", "tasks_per_node=3"), {"devices": 3, "nodes": 2, "world": 6}),
        ((), {"devices": 1, "nodes": 1, "world": 1}),
    ],
)
def test_the_ranks_of_a_job_are_those_that_its_launcher_starts(plan, given: tuple[str, ...], ranks: Any) -> None:
    keys = [f"hydra.launcher.{key}" for key in given]
    code, told = plan("trainer.devices=auto", "trainer.accelerator=auto", "hydra/launcher=slurm", *keys)
    assert (code, told["problems"], told["ranks"]) == (0, [], ranks)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("trainer.devices=4", "hydra.launcher.gpus_per_node=8"), "the job would have 8 processes on each node"),
        (("trainer.num_nodes=3",), "set hydra.launcher.nodes=3, or trainer.num_nodes=auto"),
        (("hydra.launcher.timeout_min=24h",), "hydra.launcher.timeout_min must be a whole number"),
        (("+hydra.launcher.nodez=2",), "there is no key 'nodez'"),
    ],
)
def test_what_a_job_would_fail_with_is_told(plan, given: tuple[str, ...], said: str) -> None:
    code, told = plan("hydra/launcher=slurm", *given)
    assert code == 2
    assert said in told["problems"][0]
    assert told["model"]["parameters"] > 0


def test_hydra_s_own_values_are_there(plan) -> None:
    assert plan("data.name=${hydra:runtime.choices.data}")[0] == 0


WRONG = (
    ("data=in1k", "data.root=absent"),
    ("init=checkpoint",),
    ("callbacks.checkpoints.every=[often]",),
)
MORE_WRONG = (
    ("schedule.warmup=60ep",),
    ("init=checkpoint", "init.path=absent"),
    ("global_batch=100",),
    ("data.batch_size=2000",),
    ("trainer.precision=64",),
    ("trainer.devices=two",),
    ("trainer.strategy=nope",),
    ("trainer.gradient_clip_val=-1",),
    ("model.num_heads=[1,2,4,7]",),
    ("data.image_size=31", "model.img_size=32"),
    ("task.freeze=[nothing.*]",),
    ("task.loss=mse",),
    ("optimizer.name=adamww",),
    ("validate_every=7st",),
    ("trainer.limit_train_batches=0",),
    ("teacher=checkpoint",),
    ("data.progressive={0%:16,50%:32}",),
)


@pytest.mark.parametrize(
    "overrides", [*WRONG, *(pytest.param(given, marks=pytest.mark.slow) for given in MORE_WRONG)], ids=" ".join
)
def test_it_fails_as_training_fails(plan, program, capsys, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    said = refusal(program, capsys, f"paths.runs_dir={tmp_path}", "trainer.accelerator=cpu", *overrides)
    code, told = plan("trainer.accelerator=cpu", *overrides)
    assert code == 2
    assert said in told["problems"]


def test_all_problems_are_listed_and_the_rest_is_still_told(capsys, tmp_path: Path) -> None:
    given = [
        "init=checkpoint",
        "data=in1k",
        "data.image_size=32",
        "schedule.warmup=400ep",
        "callbacks.nonfinite.in_a_row=0",
    ]
    assert main(["plan", f"paths.runs_dir={tmp_path}", *given]) == 2
    told, failing = capsys.readouterr().out.split("Training would fail:")
    for word in ("init.path is needed", "data set 'in1k'", "schedule.warmup=400ep", "callbacks.nonfinite.in_a_row"):
        assert word in failing
    for word in ("1,281,167 to train", "stage 3", "memory", "10,009 updates an epoch"):
        assert word in told


def test_what_is_no_plan_of_a_run_is_refused(capsys) -> None:
    for given, word in (
        (["sweep=seeds"], "many runs"),
        (["modell=iwin_t"], "did you mean"),
        (["--images-per-s", "0"], "above 0"),
        (["--images-per-s", "3", "--like", "x"], "leave one out"),
        (["--like", "absent"], "result.json"),
    ):
        assert main(["plan", *given]) == 2
        assert word in capsys.readouterr().err


@pytest.mark.slow
def test_training_then_does_what_was_planned(plan, program, tmp_path: Path) -> None:
    _, before = plan(*SHORT)
    program("train", f"paths.runs_dir={tmp_path}", *SHORT)
    (folder,) = tmp_path.iterdir()
    assert before["run"]["folder"] == str(folder)

    table = read_metrics(folder / "metrics.csv")
    logged = {int(step) - 1: rate for step, rate in zip(table["step"], table["lr"], strict=True) if rate == rate}
    planned = dict(zip(before["schedule"]["updates"], before["schedule"]["rates"], strict=True))
    assert logged.keys() == planned.keys()
    assert logged == pytest.approx(planned)

    result = json.loads((folder / "result.json").read_text())
    assert (result["updates"], result["parameters"]) == (before["batch"]["updates"], before["model"]["parameters"])

    _, after = plan(*SHORT, "--like", str(folder))
    assert after["run"] | {"folder": Path(after["run"]["folder"]).name} == {
        "folder": f"{folder.name}-2",
        "start": "begin",
        "checkpoint": None,
        "passed_over": {folder.name: "has ended"},
        "notes": [],
    }
    assert after["time"]["hours"] * 3600 == pytest.approx(44 * 64 / result["images_per_s"])

    (folder / "result.json").unlink()  # as if it had been cut off
    newest = folder / "checkpoints" / "update-00000044.ckpt"
    _, resumed = plan(*SHORT)
    assert (resumed["run"]["start"], resumed["run"]["checkpoint"]) == ("resume", str(newest))
    newest.write_bytes(newest.read_bytes()[:-1])
    files = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    _, older = plan(*SHORT)
    assert Path(older["run"]["checkpoint"]).name == "update-00000022.ckpt"
    assert "update-00000044.ckpt would be passed over" in older["run"]["notes"][0]
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == files

    weights = ("init=checkpoint", f"init.path={older['run']['checkpoint']}")
    code, tuned = plan(*SHORT, *weights)
    assert code == 0
    assert len(tuned["weights"]["loaded"]) == len(dict(create_model("iwin_micro").named_parameters()))
    code, other = plan(*SHORT, *weights, "model=swin_micro")
    assert code == 2
    assert "does not fit this model" in other["problems"][0]


def test_a_throughput_tells_the_time(plan, tmp_path: Path, capsys) -> None:
    _, told = plan(*CLUSTER, "data.batch_size=64", "--images-per-s", "100")
    images = told["batch"]["updates"] * 1024
    assert told["time"]["device_hours"] == pytest.approx(images / 100 / 3600)
    assert told["time"]["hours"] == pytest.approx(told["time"]["device_hours"] / 16)
    assert plan(*CLUSTER)[1]["time"] is None

    run = tmp_path / "result.json"
    run.write_text(json.dumps({"images_per_s": 800.0, "ranks": 4, "flops": told["model"]["flops"]}))
    _, like = plan(*CLUSTER, "--like", str(run))
    assert like["time"]["images_per_s"] == 200
    run.write_text(json.dumps({"images_per_s": 800.0, "ranks": 4, "flops": 1}))
    assert main(["plan", *CLUSTER, "--like", str(run)]) == 2
    assert "says nothing of this one" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_paper_is_quoted_and_no_time_made_up(capsys, tmp_path: Path) -> None:
    main(["plan", f"paths.runs_dir={tmp_path}", "model=iwin_t", "data=in1k"])
    said = " ".join(capsys.readouterr().out.split())
    assert "time unknown: give --images-per-s" in said
    assert "729 images/s of inference on a V100" in said


def test_the_schedule_is_drawn(capsys, tmp_path: Path) -> None:
    out = tmp_path / "schedule.png"
    assert main(["plan", f"paths.runs_dir={tmp_path}", "schedule=wsd", "schedule.warmup=50%", "--png", str(out)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "█" in line]
    # Up over the first half, flat, and down in the last part: the higher, the later it begins.
    begins = [len(line) - len(line.lstrip()) for line in lines]
    assert begins == sorted(begins, reverse=True)
    assert len(set(begins)) == len(begins)
    Image.open(out).verify()
    assert main(["plan", f"paths.runs_dir={tmp_path}", "--png", str(tmp_path / "absent" / "x.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["trainer.num_nodes=0", "trainer.devices=two", "trainer.devices=0"])
def test_ranks_need_numbers(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        find_ranks(configure([wrong]))
