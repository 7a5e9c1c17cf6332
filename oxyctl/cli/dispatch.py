"""Builds only the command that was typed: building all of them takes most of typer's start-up time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.main import get_command_name, get_group
from typer.models import CommandInfo, TyperInfo


def select_command(app: typer.Typer, argv: Sequence[str]) -> Callable[[], Any]:
    """A callable that runs `argv` as `app` would; `app` itself if `argv` does not begin with a command or group.

    Then the user wants help or completions, or has mistyped, and every name is needed.
    """
    pruned = _prune(app, argv)
    return app if pruned is app else get_group(pruned)


def _prune(app: typer.Typer, argv: Sequence[str]) -> typer.Typer:
    """A copy of `app` with only the command that `argv` names; `app` itself if it names none."""
    name = next(iter(argv), None)
    groups = [_prune_group(group, argv[1:]) for group in app.registered_groups if group.name == name]
    commands = [command for command in app.registered_commands if _command_name(command) == name]
    if not groups and not commands:
        return app
    pruned = copy.copy(app)
    pruned.registered_groups, pruned.registered_commands = groups, commands
    return pruned


def _prune_group(group: TyperInfo, argv: Sequence[str]) -> TyperInfo:
    assert group.typer_instance is not None
    pruned = copy.copy(group)
    pruned.typer_instance = _prune(group.typer_instance, argv)
    return pruned


def _command_name(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or get_command_name(command.callback.__name__)
