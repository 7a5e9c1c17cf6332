"""The requests of the supervisor's socket, one line of JSON each, and its errors.

    (empty)                                                 the status
    {"do": "impair", "link": "web:lan", "settings": {...}}      the links that were changed
    {"do": "apply", "plan": {...}, "timeout_s": 60}         what was changed
    {"do": "nodes", "action": "stop", "nodes": ["web"]}     how these nodes are then; before it, a line for each event

A question that fails is answered by {"error": "...", "exit_code": 1}.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from oxyctl.errors import ExitCode
from oxyctl.net.impairment import ImpairmentSettings
from oxyctl.plan.steps import Plan
from oxyctl.topology.words import Action

COMMIT = b"commit\n"  # of the command that builds the lab: from here on the lab is on its own
Tell = Callable[..., None]  # tell(event, **details)


class Status(msgspec.Struct, kw_only=True, frozen=True, tag="status", tag_field="do"):
    """How is the lab?"""


class Impair(msgspec.Struct, kw_only=True, frozen=True, tag="impair", tag_field="do"):
    """Impair a link, or all those of a network; `clear`: only what is said here remains."""

    link: str
    settings: ImpairmentSettings = ImpairmentSettings()
    clear: bool = False


class Apply(msgspec.Struct, kw_only=True, frozen=True, tag="apply", tag_field="do"):
    """Become this; every node that comes has `timeout_s` seconds to be ready."""

    plan: Plan
    timeout_s: float


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
