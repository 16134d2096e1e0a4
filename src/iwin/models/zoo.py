"""The sizes of Swin and Iwin, models made from them by name, and their registration with timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from iwin.conf import read_part
from iwin.errors import ConfigError, near_names
from iwin.models.protocol import WindowTransformer
from iwin.models.spec import PAPER_WINDOWS


@dataclass(frozen=True)
class Size:
    """A row of the zoo. The family decides mixer, position and downsample; kernel is that of local mixers."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mixer: str
    position: str
    downsample: str
    img_size: int = 224
    window_size: int | str = "auto"

    def numbers(self) -> dict[str, Any]:
        """The keys of a model that the size decides, as its configuration shows them."""
        keys = {"embed_dim": self.embed_dim, "depths": list(self.depths), "num_heads": list(self.num_heads)}
        return {**keys, "window_size": self.window_size}


def _iwin(
    dim: int, depths: tuple[int, ...], heads: tuple[int, ...], img_size: int = 224, window_size: int | str = "auto"
) -> Size:
    return Size(dim, depths, heads, "interleaved", "none", "conv", img_size, window_size)


def _swin(
    dim: int, depths: tuple[int, ...], heads: tuple[int, ...], img_size: int = 224, window_size: int | str = "auto"
) -> Size:
    return Size(dim, depths, heads, "shifted", "relative", "merging", img_size, window_size)


# Iwin, Table III, and Swin, Section 3.3. The released ImageNet-1K weights of Iwin-S have other heads than
# Table III prints: iwin_s is what was released, iwin_s_paper what is printed (and the 22K weights have).
# The micro sizes are for images of 32 x 32 pixels.
SIZES: dict[str, Size] = {
    "iwin_micro": _iwin(32, (1, 1, 2, 1), (1, 2, 4, 8), img_size=32, window_size=4),
    "iwin_t": _iwin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "iwin_s": _iwin(96, (2, 2, 18, 2), (3, 4, 8, 16)),
    "iwin_s_paper": _iwin(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "iwin_b": _iwin(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "iwin_l": _iwin(192, (2, 2, 18, 2), (6, 12, 24, 48)),
    "swin_micro": _swin(32, (2, 2, 2, 2), (1, 2, 4, 8), img_size=32, window_size=4),
    "swin_t": _swin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s": _swin(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_b": _swin(128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin_l": _swin(192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def _part(group: str, value: str | Mapping[str, Any] | None, default: str) -> Mapping[str, Any]:
    value = default if value is None else value
    return read_part(group, value) if isinstance(value, str) else value


def create_model(
    name: str,
    *,
    img_size: int | Sequence[int] | None = None,
    window_size: int | str | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    embed_dim: int | None = None,
    depths: Sequence[int] | None = None,
    num_heads: Sequence[int] | None = None,
    kernel_sizes: int | Sequence[int | None] | None = 3,
    mixer: str | Mapping[str, Any] | None = None,
    position: str | Sequence[str] | Mapping[str, Any] | None = None,
    downsample: str | Mapping[str, Any] | None = None,
    structure: str = "S1",
    pad_attention: str = "masked",
    dynamic: bool = False,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    norm_eps: float = 1e-5,
) -> WindowTransformer:
    """A model of the zoo (`SIZES`), with what is given here in place of the size's own.

    mixer, position and downsample are names of conf/mixer, conf/position, conf/downsample (position also
    a list of names), or the plain data of such a file. The rest is as in WindowTransformer.

    ConfigError for an unknown name, with the near ones, and for what cannot be a model.
    """
    if name not in SIZES:
        raise ConfigError(f"there is no model {name!r}; {near_names(name, SIZES)}")
    size = SIZES[name]
    if position is not None and not isinstance(position, str | Mapping):
        position = {mode: part for item in position for mode, part in read_part("position", item).items()}
    return WindowTransformer(
        img_size=size.img_size if img_size is None else img_size,
        window_size=size.window_size if window_size is None else window_size,
        num_classes=num_classes,
        in_chans=in_chans,
        embed_dim=size.embed_dim if embed_dim is None else embed_dim,
        depths=size.depths if depths is None else depths,
        num_heads=size.num_heads if num_heads is None else num_heads,
        kernel_sizes=kernel_sizes,
        mixer=_part("mixer", mixer, size.mixer),
        position=_part("position", position, size.position),
        downsample=_part("downsample", downsample, size.downsample),
        structure=structure,
        pad_attention=pad_attention,
        dynamic=dynamic,
        mlp_ratio=mlp_ratio,
        qkv_bias=qkv_bias,
        global_pool=global_pool,
        drop_rate=drop_rate,
        proj_drop_rate=proj_drop_rate,
        attn_drop_rate=attn_drop_rate,
        drop_path_rate=drop_path_rate,
        norm_eps=norm_eps,
    )


# timm: the four sizes of Iwin at the paper's image sizes, by timm's naming. (timm has Swin itself.)
_TIMM_SIZES = {
    "tiny": ("iwin_t", (224,)),
    "small": ("iwin_s", (224, 384, 512, 1024)),
    "small_paper": ("iwin_s_paper", (224,)),
    "base": ("iwin_b", (224, 384, 512, 1024)),
    "large": ("iwin_l", (224, 384)),
}


def timm_names() -> dict[str, tuple[str, int]]:
    """timm's name of every registered model -> (name in the zoo, image side in pixels)."""
    return {
        f"iwin_{word}_patch4_window{PAPER_WINDOWS[side]}_{side}": (name, side)
        for word, (name, sides) in _TIMM_SIZES.items()
        for side in sides
    }


def _entry(timm_name: str, name: str, side: int) -> Callable[..., Any]:
    def entry(pretrained: bool = False, **kwargs: Any) -> Any:
        if pretrained:
            raise ConfigError(
                f"{timm_name} has no address to download weights from: build it without pretrained=True and use "
                f"iwin.load_pretrained(model, 'file.pth')"
            )
        kwargs = {"img_size": side, "window_size": PAPER_WINDOWS[side], **kwargs}
        out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
        return build_model_with_cfg(
            lambda **keys: create_model(name, **keys),
            timm_name,
            pretrained=False,
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **kwargs,
        )

    entry.__name__ = entry.__qualname__ = timm_name
    entry.__module__ = __name__
    entry.__doc__ = f"{name} for images of {side} x {side} pixels."
    return entry


default_cfgs = generate_default_cfgs(
    {
        f"{timm_name}.untrained": {
            "input_size": (3, side, side),
            "fixed_input_size": True,
            "num_classes": 1000,
            "pool_size": (side // 32, side // 32),
            "crop_pct": 0.875 if side == 224 else 1.0,
            "crop_mode": "center" if side == 224 else "squash",
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
            "license": "mit",
        }
        for timm_name, (_, side) in timm_names().items()
    }
)

for _timm_name, (_name, _side) in timm_names().items():
    globals()[_timm_name] = register_model(_entry(_timm_name, _name, _side))
