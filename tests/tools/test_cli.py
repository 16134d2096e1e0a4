"""The command `iwin` has a subcommand for every tool, and says what is wrong in a line."""

from __future__ import annotations

import pytest

from iwin.tools.cli import main, parser


def test_every_tool_is_a_subcommand() -> None:
    text = parser().format_help()
    for name in ("shards", "zoo", "convert", "export"):
        assert name in text


def test_what_cannot_be_used_ends_in_a_line_and_exit_code_2(capsys: pytest.CaptureFixture, tmp_path) -> None:
    assert main(["shards", "write", str(tmp_path / "absent"), str(tmp_path / "out")]) == 2
    assert str(tmp_path / "absent") in capsys.readouterr().err
