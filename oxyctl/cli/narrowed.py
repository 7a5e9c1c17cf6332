"""Of all commands the one that is typed: typer builds every command that it knows of, most of the time of a start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.main import get_command_name, get_group
from typer.models import CommandInfo, TyperInfo


def narrowed(app: typer.Typer, words: Sequence[str]) -> Callable[[], Any]:
    """What runs `words` as `app` does; `app` itself when they do not begin with the name of a command or group.

    Then somebody asks for help or for completions, or has mistyped, and every name is needed.
    """
    narrow = _narrow(app, words)
    return app if narrow is app else get_group(narrow)


def _narrow(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """A copy of `app` with nothing but what the first words name; `app` itself when they name nothing."""
    name = next(iter(words), None)
    groups = [_narrow_group(group, words[1:]) for group in app.registered_groups if group.name == name]
    commands = [command for command in app.registered_commands if _name_of(command) == name]
    if not groups and not commands:
        return app
    narrow = copy.copy(app)
    narrow.registered_groups, narrow.registered_commands = groups, commands
    return narrow


def _narrow_group(group: TyperInfo, words: Sequence[str]) -> TyperInfo:
    assert group.typer_instance is not None
    narrow = copy.copy(group)
    narrow.typer_instance = _narrow(group.typer_instance, words)
    return narrow


def _name_of(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or get_command_name(command.callback.__name__)
