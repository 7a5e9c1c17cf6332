"""Options shared by several commands: declared once, as the parameters of a function that is never called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., None])


def shared_options(*blocks: Callable[..., None], **defaults: Any) -> Callable[[Command], Command]:
    """Append the parameters of `blocks` to a command's own; it receives their values in its `**shared`.

    `defaults` override those of the blocks for this command. Typer reads only the signature, so only that changes.
    """

    def decorate(command: Command) -> Command:
        own = [each for each in _parameters(command) if each.kind is not inspect.Parameter.VAR_KEYWORD]
        shared = [
            each.replace(default=defaults.get(each.name, each.default))
            for block in blocks
            for each in _parameters(block)
        ]
        command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # inspect.signature() looks there
        command.__annotations__ = {each.name: each.annotation for each in [*own, *shared]}
        return command

    return decorate


def _parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())
