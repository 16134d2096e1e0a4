"""A teacher is loaded strictly, sees the student's images, adds its part to the loss, and is no part of the student."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import iwin
from iwin.errors import ConfigError, WeightsError
from iwin.train.losses import hard_distillation, soft_distillation
from iwin.train.optim import Optimizer
from iwin.train.run_plan import RunPlan
from iwin.train.schedule import Constant
from iwin.train.task import ClassificationTask
from iwin.train.teacher import Distillation, Teacher
from iwin.weights.save import save_weights

DATA: dict[str, Any] = {
    "num_classes": 10,
    "image_size": 32,
    "progressive": None,
    "mean": [0.3, 0.4, 0.5],
    "std": [0.2, 0.3, 0.4],
}
OTHER = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}


def micro(name: str = "iwin_micro", **keys: Any) -> iwin.WindowTransformer:
    torch.manual_seed(1)
    return iwin.create_model(name, **{"num_classes": 10, "drop_path_rate": 0.5, **keys})


def resnet() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("resnet10t", num_classes=10)


def images(side: int = 32) -> Tensor:
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))


def safetensors(folder: Path, model: iwin.WindowTransformer) -> Path:
    save_weights(folder / "teacher.safetensors", model.state_dict(), model.config)
    return folder / "teacher.safetensors"


def run_checkpoint(folder: Path, model: nn.Module, config: dict[str, Any], data: dict[str, Any] = DATA) -> Path:
    """What a run writes, without its training's part."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    carried = {"version": iwin.__version__, "config": {"model": config, "data": data}}
    torch.save({"state_dict": state, "iwin": carried}, folder / "best.ckpt")
    return folder / "best.ckpt"


def ours(model: iwin.WindowTransformer) -> dict[str, Any]:
    return {"_target_": "iwin.create_model", "name": "iwin_micro", **model.config}


RESNET = {"_target_": "timm.create_model", "model_name": "resnet10t", "pretrained": True, "num_classes": 10}


def logits(teacher: Teacher, seen: Tensor) -> Tensor:
    """What the teacher says, from what it adds to a loss."""
    said: list[Tensor] = []
    handle = teacher.model.register_forward_hook(lambda module, given, out: said.append(out))
    teacher.blend(torch.zeros(()), torch.zeros(len(seen), 10), seen)
    handle.remove()
    return said[0]


def plainly(model: nn.Module, seen: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(seen)


@pytest.mark.parametrize("source", ["safetensors", "run", "run of timm", "file of timm", "zoo"])
def test_any_checkpoint_of_ours_or_timm_teaches(tmp_path: Path, source: str) -> None:
    model: Any = resnet() if "timm" in source else micro()
    name, path = None, tmp_path / "weights.pth"
    if source == "safetensors":
        path = safetensors(tmp_path, model)
    elif source == "run":
        path = run_checkpoint(tmp_path, model, ours(model))
    elif source == "run of timm":
        path = run_checkpoint(tmp_path, model, RESNET)
    else:
        name = "iwin_micro" if source == "zoo" else "resnet10t"
        torch.save(model.state_dict(), path)
    teacher = Distillation(name, str(path)).build(DATA | {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
    if source.startswith("run"):  # the images of a run are its own, whatever timm says of the model
        teacher = Distillation(name, str(path)).build(DATA)
    assert torch.equal(logits(teacher, images()), plainly(model, images()))
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_loss_is_weighted_between_labels_and_teacher(tmp_path: Path, kind: str) -> None:
    model = micro()
    temperature = 2.0 if kind == "soft" else 1.0
    teacher = Distillation(None, str(safetensors(tmp_path, model)), kind, 0.3, temperature).build(DATA)
    student = torch.randn(4, 10, generator=torch.Generator().manual_seed(2), requires_grad=True)
    truth = plainly(model, images())
    says = soft_distillation(student, truth, 2.0) if kind == "soft" else hard_distillation(student, truth)
    found = teacher.blend(torch.tensor(5.0), student, images())
    assert found.item() == pytest.approx(0.7 * 5.0 + 0.3 * says.item())
    found.backward()
    assert student.grad is not None
    assert all(p.grad is None for p in teacher.model.parameters())


def test_a_teacher_sees_images_with_the_mean_and_std_that_it_learned_with(tmp_path: Path) -> None:
    model = micro()
    path = run_checkpoint(tmp_path, model, ours(model), DATA | OTHER)
    teacher = Distillation(None, str(path)).build(DATA)
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def normalised(of: dict[str, Any]) -> Tensor:
        mean, std = (torch.tensor(of[key]).view(3, 1, 1) for key in ("mean", "std"))
        return (pixels - mean) / std

    before = normalised(DATA)
    kept = before.clone()
    assert torch.allclose(logits(teacher, before), plainly(model, normalised(OTHER)), atol=1e-5)
    assert torch.equal(before, kept), "the student's images are not touched"
    assert "own mean and std" in teacher.describe()


def test_a_teacher_is_no_part_of_the_student(tmp_path: Path) -> None:
    teacher = Distillation(None, str(safetensors(tmp_path, micro()))).build(DATA)

    def task(of: Teacher | None) -> ClassificationTask:
        return ClassificationTask(
            model=micro("swin_micro"),
            optimizer=Optimizer("adamw", 1e-3, 0.05),
            schedule=Constant("0st", 0.0),
            plan=RunPlan(4, 1, 1, 5, 1),
            num_classes=10,
            seed=0,
            run_config={},
            teacher=of,
        )

    taught, alone = task(teacher), task(None)
    assert taught.state_dict().keys() == alone.state_dict().keys()
    assert len([*taught.parameters()]) == len([*alone.parameters()])
    assert len([*taught.buffers()]) == len([*alone.buffers()])
    taught.train()
    assert not teacher.model.training
    assert copy.deepcopy(taught).teacher is teacher, "an average of the weights holds no second one"


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (lambda: micro(num_classes=7), {}, r"teacher\.safetensors tells 7 classes apart, and the data has 10"),
        (micro, {"image_size": 64}, r"does not take the student's images of 64 x 64 pixels: .*built for .* 32 x 32"),
        (micro, {"progressive": {"0%": 16, "50%": 32}}, r"does not take the student's images of 16 x 16 pixels"),
    ],
)
def test_other_classes_and_sizes_are_errors(tmp_path: Path, make: Callable, data: dict, message: str) -> None:
    path = safetensors(tmp_path, make())
    with pytest.raises(ConfigError, match=message):
        Distillation(None, str(path)).build(DATA | data)


def test_a_named_model_is_built_for_the_data_and_loaded_strictly(tmp_path: Path) -> None:
    torch.save(micro(num_classes=7).state_dict(), tmp_path / "seven.pth")
    with pytest.raises(ConfigError, match="tells 7 classes apart, and the data has 10"):
        Distillation("iwin_micro", str(tmp_path / "seven.pth")).build(DATA)
    torch.save(micro().state_dict(), tmp_path / "ten.pth")
    with pytest.raises(WeightsError, match="does not fit this model"):
        Distillation("swin_micro", str(tmp_path / "ten.pth")).build(DATA)
    teacher = Distillation("iwin_micro", str(tmp_path / "ten.pth")).build(DATA | {"image_size": 48})
    assert logits(teacher, images(48)).shape == (4, 10)
    with pytest.raises(ConfigError, match=r"does not say of which model it is: set teacher\.model=NAME"):
        Distillation(None, str(tmp_path / "ten.pth")).build(DATA)
    with pytest.raises(ConfigError, match="did you mean iwin_micro"):
        Distillation("iwin_mikro", str(tmp_path / "ten.pth")).build(DATA)


def test_a_model_that_nobody_allowed_is_not_made(tmp_path: Path) -> None:
    path = run_checkpoint(tmp_path, micro(), {"_target_": "os.system", "command": "true"})
    with pytest.raises(ConfigError, match=r"os\.system may not be named"):
        Distillation(None, str(path)).build(DATA)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": None}, r"teacher\.path is needed"),
        ({"path": "/nowhere"}, r"teacher\.path=/nowhere: there is no such file or run folder"),
        ({"kind": "sofd"}, r"teacher\.kind=sofd: did you mean soft"),
        ({"weight": 0}, r"teacher\.weight must be above 0 and at most 1, got 0: for none, teacher=none"),
        ({"weight": 1.5}, r"teacher\.weight must be above 0 and at most 1"),
        ({"temperature": 0}, r"teacher\.temperature must be above 0"),
        ({"kind": "hard", "temperature": 3.0}, r"teacher\.temperature=3\.0 does nothing with teacher\.kind=hard"),
    ],
)
def test_values_that_cannot_be_used_are_errors(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=message):
        Distillation(**{"model": None, "path": str(tmp_path / "file"), **keys})


@pytest.fixture
def train(program, tmp_path: Path):
    """Train for six updates below tmp_path/<where>; returns the run's folder, and keeps what was printed."""

    def call(where: str, *args: str) -> Path:
        short = ("duration=2ep", "trainer.limit_train_batches=3", "schedule.warmup=1st", "data.num_workers=0")
        call.printed = program("train", f"paths.runs_dir={tmp_path / where}", *short, *args)
        (folder,) = (tmp_path / where).iterdir()
        return folder

    return call


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "checkpoints" / "update-00000006.ckpt", weights_only=True)["state_dict"]


def test_a_run_learns_from_another_one_and_is_evaluated_without_it(train, program) -> None:
    teacher = train("teacher", "model=swin_micro")
    folder = train("student", "teacher=checkpoint", f"teacher.path={teacher}", "teacher.temperature=2")
    assert "soft at temperature 2, weight 0.5" in " ".join(train.printed.split())
    assert {name for name in weights(folder) if name.startswith("model.")} == {
        f"model.{name}" for name in micro().state_dict()
    }
    for file in teacher.rglob("*.ckpt"):
        file.unlink()
    program("eval", f"checkpoint={folder}")
    assert json.loads((folder / "eval" / "best" / "eval.json").read_text())["images"] == 359


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_learn_the_same(train, monkeypatch) -> None:
    taught = ("teacher=checkpoint", f"teacher.path={train('teacher', 'model=swin_micro')}", "teacher.kind=hard")
    whole = train("whole", *taught)
    epoch_start = ClassificationTask.on_train_epoch_start

    def dies(self: ClassificationTask) -> None:
        if self.current_epoch == 1:
            raise KeyError("killed")
        epoch_start(self)

    monkeypatch.setattr("iwin.train.task.ClassificationTask.on_train_epoch_start", dies)
    with pytest.raises(SystemExit):
        train("cut", *taught)
    monkeypatch.undo()
    again = weights(train("cut", *taught))
    assert all(torch.equal(value, weights(whole)[name]) for name, value in again.items())
    alone = weights(train("alone"))
    assert any(not torch.equal(value, alone[name]) for name, value in again.items())
