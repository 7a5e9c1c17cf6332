"""The supervisor's socket: one line of JSON asks, one line of JSON answers; `ask` is the other side.

    (empty)                                                 the status
    {"do": "impair", "link": "web:lan", "said": {...}}      the links that were changed
    {"do": "apply", "plan": {...}, "timeout_s": 60}         what was changed
    {"do": "nodes", "action": "stop", "nodes": ["web"]}     how these nodes are then; before it, a line for each event

What cannot be done is answered by {"error": "...", "exit_code": 1}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from oxyctl.errors import ExitCode, OxyctlError
from oxyctl.lab.steps import Plan
from oxyctl.net.impairment import Said

if TYPE_CHECKING:
    from oxyctl.lab.supervisor import Supervisor


class Status(msgspec.Struct, kw_only=True, frozen=True, tag="status", tag_field="do"):
    """How is the lab?"""


class Impair(msgspec.Struct, kw_only=True, frozen=True, tag="impair", tag_field="do"):
    """Impair a link, or all those of a network; `clear`: only what is said here remains."""

    link: str
    said: Said = Said()
    clear: bool = False


class Apply(msgspec.Struct, kw_only=True, frozen=True, tag="apply", tag_field="do"):
    """Become this; every node that comes has `timeout_s` seconds to be ready."""

    plan: Plan
    timeout_s: float


Action = Literal["stop", "start", "restart", "kill"]


class Nodes(msgspec.Struct, kw_only=True, frozen=True, tag="nodes", tag_field="do"):
    """Stop, start or kill the programs of nodes; all that is to run again has `timeout_s` seconds to be ready."""

    action: Action
    nodes: list[str]
    timeout_s: float = 60.0


class Failure(msgspec.Struct, kw_only=True, frozen=True):
    """What was asked was not done."""

    error: str
    exit_code: ExitCode


Question = Status | Impair | Apply | Nodes
Tell = Callable[..., None]  # tell(event, **details)


async def answer(supervisor: Supervisor, reader: asyncio.StreamReader, tell: Tell) -> bytes:
    """The answer to the question that `reader` brings, without a newline; what happens before it, `tell` is told."""
    try:
        result = await _answer(supervisor, await reader.readline(), tell)
    except OxyctlError as error:
        result = Failure(error=str(error), exit_code=ExitCode(error.exit_code))
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        result = Failure(error=str(error), exit_code=ExitCode.FAILED)
    return msgspec.json.encode(result)


async def _answer(supervisor: Supervisor, line: bytes, tell: Tell) -> Any:
    question: Question = msgspec.json.decode(line, type=Question) if line.strip() else Status()
    match question:
        case Status():
            return await supervisor.status()
        case Impair():
            return await supervisor.live.impair(question)
        case Apply():
            return await supervisor.live.apply(question)
        case Nodes():
            return await supervisor.keeper.do(question, tell)
