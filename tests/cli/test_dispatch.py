"""Typer gets one command to build: what is typed does the same as if it had got all."""

from __future__ import annotations

import pytest
import typer
from typer.main import get_group

from oxyctl.cli import app
from oxyctl.cli.dispatch import select_command
from proxy import __version__


def paths(group, *before):
    """The words of each command and group below this one."""
    for name, command in group.commands.items():
        yield (*before, name)
        yield from paths(command, *before, name) if hasattr(command, "commands") else ()


def help_of(run, words, capsys):
    with pytest.raises(SystemExit):
        run([*words, "--help"], prog_name="oxyctl")
    return capsys.readouterr().out


def test_every_command_says_the_same_of_itself(capsys):
    whole, seen = get_group(app), 0
    for words in paths(whole):
        assert help_of(select_command(app, words), words, capsys) == help_of(whole, words, capsys)
        seen += 1
    assert seen > 50


def test_only_what_is_typed_is_built():
    root = select_command(app, ["lab", "status", "--format", "json"])
    assert list(root.commands) == ["lab"]
    assert list(root.commands["lab"].commands) == ["status"]
    assert list(select_command(app, ["top"]).commands) == ["top"]


@pytest.mark.parametrize("words", [[], ["--help"], ["flowz"], [""]])
def test_all_are_there_where_none_is_named(words):
    assert select_command(app, words) is app


def test_a_group_is_whole_where_none_of_its_commands_is_named():
    assert {"up", "down"} <= set(select_command(app, ["lab", "upp"]).commands["lab"].commands)


def test_the_commands_that_others_see_stay():
    before = (list(app.registered_commands), list(app.registered_groups))
    select_command(app, ["status"])
    assert (app.registered_commands, app.registered_groups) == before
    assert isinstance(app, typer.Typer)


@pytest.mark.parametrize("words", [["--version"], ["--version", "lab", "ls"]])
def test_the_version_is_shown_and_nothing_is_run(words, capsys):
    with pytest.raises(SystemExit):
        select_command(app, words)(words, prog_name="oxyctl")
    assert capsys.readouterr().out == f"oxyctl {__version__}\n"
