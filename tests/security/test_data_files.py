"""Data sets from elsewhere run nothing, write nowhere, and do not fill the memory."""

from __future__ import annotations

import argparse
import os
import struct
import tarfile
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from iwin.errors import DataError
from iwin.tools.shards import add_parser

SHORT = ("duration=1ep", "trainer.limit_train_batches=2", "schedule.warmup=0st", "data.num_workers=0")


@pytest.mark.parametrize(
    ("key", "form"),
    [
        *(
            ("data.root", form)
            for form in ("pipe:mkdir MARKER", "pipe://mkdir MARKER", "!mkdir MARKER", "|mkdir MARKER")
        ),
        *((key, "pipe:mkdir MARKER") for key in ("data.train", "data.val")),
    ],
)
def test_a_pipe_url_runs_nothing(refused, marker: Path, key: str, form: str) -> None:
    assert refused("train", f"{key}='{form.replace('MARKER', str(marker))}'")
    assert not marker.exists()


def test_webdataset_itself_runs_nothing(marker: Path) -> None:
    assert os.environ["WDS_SECURE"] == "1"
    with pytest.raises(ValueError, match="cannot open pipe"):
        next(iter(webdataset.WebDataset(f"pipe:mkdir {marker}", shardshuffle=False)))
    assert not marker.exists()


def png(side: int = 8) -> bytes:
    file = BytesIO()
    Image.new("RGB", (side, side)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..\\x"])
def test_no_member_of_a_tar_becomes_a_path(tmp_path: Path, name: str) -> None:
    root = tmp_path / "deep" / "shards"
    root.mkdir(parents=True)
    with tarfile.open(root / "train-00000.tar", "w") as tar:
        for extension, body in (("png", png()), ("cls", b"0")):
            member = tarfile.TarInfo(f"{name}.{extension}")
            member.size = len(body)
            tar.addfile(member, BytesIO(body))
    before = set(tmp_path.rglob("*"))
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["shards", "index", str(root)])
    with suppress(DataError):  # what it says about such names is another test's
        arguments.func(arguments)
    made = set(tmp_path.rglob("*")) - before
    assert all(path.parent == root and path.name.startswith("train-00000") for path in made), made
    assert not Path("/x.png").exists()


def test_an_image_of_a_billion_pixels_is_refused_before_it_is_decoded(refused, tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(8):
            (tmp_path / "images" / label / f"{number}.png").write_bytes(png())
    bomb = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", 40_000, 25_000, 1, 0, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    ):
        bomb += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    for number in range(8):
        (tmp_path / "images" / "ant" / f"{number}.png").write_bytes(bomb)
    data = ("data=folder", f"data.root={tmp_path}/images", "data.val_fraction=0.25", "data.image_size=32")
    message = refused("train", *SHORT, *data, "data.batch_size=4", "trainer.precision=32-true")
    assert "cannot be decoded" in message
    (listed,) = (tmp_path / "runs").rglob("bad_samples.csv")
    assert "has too many pixels" in listed.read_text()
