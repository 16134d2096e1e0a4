"""What weights do not show: the configuration they were trained with, held against that of a model.

Heads, windows, mixers and the order of things leave no trace in names and shapes; weights loaded into
the wrong ones give wrong outputs without any error. Files of ours carry their configuration, and it must
agree; for others, the report says what is assumed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from iwin.conf import read_part
from iwin.errors import UserError, WeightsError, near_names
from iwin.models.backbone import Backbone
from iwin.models.downsample import PatchMerging
from iwin.models.positions import RelativeTable
from iwin.models.protocol import WindowTransformer
from iwin.models.spec import PLAN_KEYS, StagePlan, image_size, plan_stages
from iwin.models.targets import plain
from iwin.weights.formats import OURS, RELEASED, TIMM
from iwin.weights.imagenet22k import CLASSES_22K

# What must be equal. Missing here: sizes of images and heads, which have their own rules; rates of dropout,
# which are no part of the function; kernel sizes and mlp_ratio, which the shapes show.
SAME = (
    *("embed_dim", "depths", "num_heads", "in_chans"),
    *("mixer", "position", "downsample", "structure", "qkv_bias", "global_pool", "norm_eps"),
)
IWIN_S = (96, [2, 2, 18, 2])
HEADS_1K = [3, 4, 8, 16]


def model_config_of_run(run_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The configuration of our model in that of a run; None where the run trained another library's."""
    model = dict(run_config["model"])
    if model.pop("_target_", None) != "iwin.create_model":
        return None
    model.pop("name", None)
    return check_model_config(model, "the run's configuration")


def check_model_config(config: Any, source: str) -> dict[str, Any]:
    """`config` with the defaults of what it leaves out. WeightsError for keys that a model does not have, or lacks."""
    if not isinstance(config, dict):
        raise WeightsError(f"{source}: model must be an object, got {type(config).__name__}")
    known = {name: p for name, p in inspect.signature(Backbone.__init__).parameters.items() if name != "self"}
    for key in config:
        if key not in known:
            raise WeightsError(f"{source} has an unknown key model.{key}; {near_names(key, known)}")
    for key, parameter in known.items():
        if key not in config and parameter.default is parameter.empty:
            raise WeightsError(f"{source} lacks the key model.{key}")
    for key in ("mixer", "position", "downsample"):
        if not isinstance(config[key], dict):
            raise WeightsError(f"{source}: model.{key} must be an object, got {config[key]!r}")
    complete = plain({key: config.get(key, parameter.default) for key, parameter in known.items()})
    plan_of(complete)
    return complete


def plan_of(config: Mapping[str, Any]) -> list[StagePlan]:
    """The stages that a configuration means. WeightsError for numbers that are no model."""
    try:
        return plan_stages(img_size=image_size(config["img_size"]), **{key: config[key] for key in PLAN_KEYS})
    except (UserError, TypeError, AttributeError) as error:
        raise WeightsError(f"the configuration that the weights carry is none of a model: {error}") from error


def pads(plan: list[StagePlan]) -> bool:
    """Whether attention works on padded maps anywhere, or may."""
    return any(stage.size is None or stage.added_tokens > 0 for stage in plan)


def differences(config: Mapping[str, Any], model: WindowTransformer) -> dict[str, str]:
    """Where the configuration of weights and a model differ in function: key -> what is wrong."""
    found = {}
    for key in SAME:
        theirs, ours = dict(_leaves(config[key], key)), dict(_leaves(model.config[key], key))
        for place in sorted({*theirs, *ours}):
            if theirs.get(place) != ours.get(place):
                found[place] = _differs(place, theirs.get(place), ours.get(place))
    plan = plan_of(config)
    theirs_here, ours_here = [stage.window for stage in plan], [stage.window for stage in model.plan]
    # A relative table has the window's size and is resized with it. Where nothing shows the window, another one
    # for the same image is another function; for another image it is the usual way to go on.
    same_size = [stage.size for stage in plan] == [stage.size for stage in model.plan]
    if same_size and theirs_here != ours_here and not any(isinstance(m, RelativeTable) for m in model.modules()):
        found["window_size"] = _differs("window_size", theirs_here, ours_here)
    if pads(plan) and pads(model.plan) and config["pad_attention"] != model.config["pad_attention"]:
        found["pad_attention"] = _differs("pad_attention", config["pad_attention"], model.config["pad_attention"])
    return found


def released_padding(model: WindowTransformer, naming: str) -> dict[str, str]:
    """The same for weights with the names of other codes, which do not hide padded tokens from attention."""
    if naming != OURS and pads(model.plan) and model.config["pad_attention"] != "released":
        where = "its maps may be of any size" if model.dynamic else f"stages {_padded(model)} pad their maps"
        text = f"model.pad_attention is masked, and {where}; these weights saw padded tokens: set it to released"
        return {"pad_attention": text}
    return {}


def check_expressible(config: Mapping[str, Any], naming: str) -> None:
    """WeightsError, naming the key, where the code that `naming` belongs to does not compute this model's function."""
    if naming == OURS:
        return
    is_swin = config["mixer"] == read_part("mixer", "shifted")
    family = "Swin" if is_swin or naming == TIMM else "Iwin"
    mixer, downsample = ("shifted", "merging") if family == "Swin" else ("interleaved", "conv")
    position = read_part("position", "relative") if family == "Swin" else {}
    if naming == RELEASED and "absolute" in config["position"]:
        position |= read_part("position", "absolute")
    wanted: dict[str, Any] = {"mixer": read_part("mixer", mixer), "downsample": read_part("downsample", downsample)}
    wanted |= {"position": position, "structure": "S1", "norm_eps": 1e-5, "global_pool": "avg"}
    for key, value in wanted.items():
        if config[key] != value:
            raise WeightsError(f"--to {naming}: that code has only {family} with {key} {value}, not {config[key]}")
    if pads(plan_of(config)) and config["pad_attention"] != "released":
        raise WeightsError(
            f"--to {naming}: that code shows padded tokens to attention, and this model with pad_attention "
            f"{config['pad_attention']} hides them: its outputs would differ there"
        )


def assumptions(model: WindowTransformer, head_rows: int | None) -> list[str]:
    """What is taken from the model because weights without a configuration do not show it, for the report."""
    heads, windows = model.config["num_heads"], [stage.window for stage in model.plan]
    notes = [f"assumed, as the weights do not show it: heads {_text(heads)}, windows {_text(windows)}"]
    is_swin = isinstance(model.stages[0].downsample, PatchMerging)
    if (model.config["embed_dim"], model.config["depths"]) == IWIN_S and not is_swin:
        notes.append(
            "Iwin-S has two definitions with equal shapes: heads 3 4 8 16 in the released ImageNet-1K weights "
            "(model=iwin_s), 3 6 12 24 in the ImageNet-22K ones and those fine-tuned from them (model=iwin_s_paper)"
        )
        if heads == HEADS_1K and head_rows == CLASSES_22K:
            notes.append(f"a head of {CLASSES_22K} classes means 22K weights: model=iwin_s_paper is the likely one")
    return notes


def _padded(model: WindowTransformer) -> str:
    return ", ".join(str(stage.stage) for stage in model.plan if stage.added_tokens)


def _differs(key: str, theirs: Any, ours: Any) -> str:
    return f"model.{key} is {_text(theirs)} in the weights' configuration and {_text(ours)} in the model"


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value inside of `value` with its dotted place; lists of plain values count as one."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}")
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}.{index}")
    else:
        yield place, value
