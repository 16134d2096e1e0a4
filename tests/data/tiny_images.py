"""Tiny images and configurations that the tests of the data room share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

CONF = Path(__file__).resolve().parents[2] / "conf"
PACKAGE = Path(__file__).resolve().parents[2] / "src" / "iwin"


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def square(value: int, side: int = 12) -> bytes:
    """A PNG of one grey."""
    return encoded(Image.fromarray(np.full((side, side, 3), value, np.uint8)))


def read_keys(config: Any) -> dict[str, Any]:
    """Plain values of a config, without the keys that are Hydra's."""
    keys = OmegaConf.to_container(config, resolve=True)
    assert isinstance(keys, dict)
    return {str(key): value for key, value in keys.items() if key != "defaults" and not str(key).startswith("_")}


def recipe_keys(name: str, **changes: Any) -> dict[str, Any]:
    """conf/augment/<name>.yaml with some keys changed."""
    return read_keys(OmegaConf.load(CONF / "augment" / f"{name}.yaml")) | changes


def data_keys(name: str, recipe: str = "simple", data_dir: Path | str = "nowhere") -> dict[str, Any]:
    """conf/data/<name>.yaml as Hydra would hand it over, resolved."""
    OmegaConf.register_new_resolver("iwin_package", lambda path: str(PACKAGE / path), replace=True)
    whole = OmegaConf.create(
        {"seed": 7, "paths": {"data_dir": str(data_dir), "cache_dir": "nowhere"}, "augment": recipe_keys(recipe)}
    )
    whole.data = OmegaConf.load(CONF / "data" / f"{name}.yaml")
    return read_keys(whole.data)
