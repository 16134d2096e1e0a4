"""The command `iwin` has a subcommand for every tool, and says what is wrong in a line."""

from __future__ import annotations

import pytest

from iwin.tools.cli import main, parser


def commands(command: str | None = None) -> set[str]:
    (subparsers,) = (action for action in parser(command)._actions if action.dest == "==SUPPRESS==")
    return set(subparsers.choices)


def test_every_tool_is_a_subcommand_and_found_by_its_name_alone() -> None:
    assert {"average", "bench", "convert", "doctor", "export", "plan", "report", "shards", "stress"} <= commands()
    for name in commands():
        assert commands(name) == {name}


@pytest.mark.parametrize("none", ["repotr", "cli", "--help"])
def test_where_no_tool_is_named_all_are_shown(none: str) -> None:
    assert commands(none) == commands()


def test_what_cannot_be_used_ends_in_a_line_and_exit_code_2(capsys: pytest.CaptureFixture, tmp_path) -> None:
    assert main(["shards", "write", str(tmp_path / "absent"), str(tmp_path / "out")]) == 2
    assert str(tmp_path / "absent") in capsys.readouterr().err
