"""The requests of the supervisor's socket, one line of JSON each, and its errors.

    (empty)                                                 the status
    {"do": "impair", "link": "web:lan", "settings": {...}}  the changes
    {"do": "apply", "plan": {...}, "timeout_s": 60}         the changes
    {"do": "nodes", "action": "stop", "nodes": ["web"]}     a line for each event, then the status of these nodes

A request that fails is answered by {"error": "...", "exit_code": 1}.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from oxyctl.errors import ExitCode
from oxyctl.net.impairment import ImpairmentSettings
from oxyctl.plan.steps import Plan
from oxyctl.topology.choices import Action

COMMIT = b"commit\n"  # from the command that builds the lab: from now on the lab runs without it
Notify = Callable[..., None]  # notify(event, **details)


class Status(msgspec.Struct, kw_only=True, frozen=True, tag="status", tag_field="do"):
    """Get the status of the lab."""


class Impair(msgspec.Struct, kw_only=True, frozen=True, tag="impair", tag_field="do"):
    """Impair a link, or all links of a network. `clear`: remove all other impairments first."""

    link: str
    settings: ImpairmentSettings = ImpairmentSettings()
    clear: bool = False


class Apply(msgspec.Struct, kw_only=True, frozen=True, tag="apply", tag_field="do"):
    """Change the lab to `plan`. New nodes must be ready within `timeout_s` seconds."""

    plan: Plan
    timeout_s: float


class Nodes(msgspec.Struct, kw_only=True, frozen=True, tag="nodes", tag_field="do"):
    """Stop, start or kill the programs of nodes. Restarted nodes must be ready within `timeout_s` seconds."""

    action: Action
    nodes: list[str]
    timeout_s: float = 60.0


class Failure(msgspec.Struct, kw_only=True, frozen=True):
    """The answer to a request that failed."""

    error: str
    exit_code: ExitCode


Request = Status | Impair | Apply | Nodes
