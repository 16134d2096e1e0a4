"""The papers' own numbers on ImageNet-1K, to stand beside ours (Iwin, Tables I and VII)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# (model, image side in pixels, pre-trained on ImageNet-22K) -> top-1 in %
TOP1: dict[tuple[str, int, bool], float] = {
    ("iwin_t", 224, False): 82.0,
    ("iwin_s", 224, False): 83.4,
    ("iwin_s", 384, False): 84.3,
    ("iwin_s", 512, False): 84.4,
    ("iwin_s", 1024, False): 83.8,
    ("iwin_b", 224, False): 83.5,
    ("iwin_b", 384, False): 84.9,
    ("iwin_b", 512, False): 85.1,
    ("iwin_b", 1024, False): 85.0,
    ("iwin_b", 224, True): 85.5,
    ("iwin_b", 384, True): 86.6,
    ("iwin_b", 512, True): 86.1,
    ("iwin_b", 1024, True): 85.6,
    ("iwin_l", 224, True): 86.4,
    ("iwin_l", 384, True): 87.4,
    ("swin_t", 224, False): 81.3,
    ("swin_s", 224, False): 83.0,
    ("swin_b", 224, False): 83.3,
    ("swin_b", 384, False): 84.5,
    ("swin_b", 224, True): 85.2,
    ("swin_b", 384, True): 86.4,
    ("swin_l", 224, True): 86.3,
    ("swin_l", 384, True): 87.3,
}
# (model, image side in pixels) -> images/s of inference on one V100 (Table I, the first row of each)
V100_IMAGES_PER_S: dict[tuple[str, int], float] = {
    ("iwin_t", 224): 729,
    ("iwin_s", 224): 410,
    ("iwin_s", 384): 142,
    ("iwin_s", 512): 78,
    ("iwin_s", 1024): 20,
    ("iwin_b", 224): 271,
    ("iwin_b", 384): 78,
    ("iwin_b", 512): 51,
    ("iwin_b", 1024): 12,
    ("iwin_l", 224): 138,
    ("iwin_l", 384): 40,
    ("swin_t", 224): 758,
    ("swin_s", 224): 437,
    ("swin_b", 224): 287,
    ("swin_b", 384): 85,
    ("swin_l", 224): 145,
    ("swin_l", 384): 46,
}


@dataclass(frozen=True)
class Ablation:
    """A row of Iwin, Table VII: ImageNet-1K at 224 x 224 pixels, 300 epochs.

    parameters in millions, multiply-adds of an image in billions, images/s of inference on one V100, top-1 in %.
    """

    model: str
    parameters_m: float
    gflops: float
    images_per_s: float
    top1: float


IMAGE_SIZE, DURATION = "224", "300ep"  # of Table VII

# sweep -> what it sweeps
SWEPT = {
    "table7_attention": "mixer",
    "table7_downsample": "downsample",
    "table7_kernel": "model.kernel_sizes",
    "table7_depths": "blocks",
    "table7_position": "position",
}
# sweep -> the setting, as on the command line -> its rows, one for each model that the table has it for
TABLE7: dict[str, dict[str, tuple[Ablation, ...]]] = {
    "table7_attention": {
        "dwconv": (Ablation("iwin_t", 21.6, 3.2, 861, 79.4),),
        "window_attention": (Ablation("iwin_t", 30.2, 4.71, 758, 80.2),),
        "interleaved_attention": (Ablation("iwin_t", 30.2, 4.71, 756, 80.4),),
        "window": (Ablation("iwin_t", 30.23, 4.72, 737, 81.8),),
        "interleaved": (Ablation("iwin_t", 30.23, 4.72, 736, 82.0),),
    },
    "table7_downsample": {
        "dwconv": (Ablation("iwin_t", 27.14, 4.57, 746, 81.9),),
        "avgpool": (Ablation("iwin_t", 27.13, 4.51, 762, 81.8),),
        "merging": (Ablation("iwin_t", 28.29, 4.51, 741, 81.8),),
        "conv": (Ablation("iwin_t", 30.23, 4.72, 736, 82.0),),
    },
    "table7_kernel": {
        "[7,5,3,null]": (Ablation("iwin_t", 30.24, 4.75, 714, 81.0),),
        "[7,7,7,null]": (Ablation("iwin_t", 30.34, 4.78, 729, 82.1),),
        "[5,5,5,null]": (Ablation("iwin_t", 30.27, 4.75, 731, 82.2),),
        "[3,3,3,null]": (Ablation("iwin_t", 30.23, 4.72, 736, 82.0),),
    },
    "table7_depths": {
        "4-3-2-2": (Ablation("iwin_t", 23.79, 4.43, 473, 80.5),),
        "3-3-3-3": (Ablation("iwin_t", 32.56, 4.8, 588, 81.8),),
        "2-2-6-2": (Ablation("iwin_t", 30.23, 4.72, 736, 82.0),),
    },
    "table7_position": {
        "absolute": (Ablation("iwin_t", 30.53, 4.72, 735, 82.1),),
        "relative": (Ablation("iwin_t", 30.25, 4.72, 724, 82.4), Ablation("iwin_s", 51.6, 8.98, 403, 83.3)),
        "none": (Ablation("iwin_t", 30.23, 4.72, 736, 82.0), Ablation("iwin_s", 51.6, 8.98, 410, 83.4)),
    },
}


def ablation(sweep: str, settings: Mapping[str, str], model: str) -> Ablation | None:
    """The row of Table VII for a cell of the sweep: the model's own, else Iwin-T's; None where it has none."""
    setting = settings.get(SWEPT.get(sweep, ""), "").replace(" ", "")
    rows = TABLE7.get(sweep, {}).get(setting, ())
    return next((row for row in rows if row.model == model), rows[0] if rows else None)
