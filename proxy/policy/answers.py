"""The control API's structures about policies: those in force, a reload, and the explanation of a flow's decision."""

from __future__ import annotations

import msgspec

from proxy.policy.model import FlowText
from proxy.policy.phases import Phase
from proxy.verdict import Decision, Verdict


class RuleInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One rule of a policy in force."""

    name: str
    policy: str
    tenant: str | None
    phase: Phase
    precedence: int
    action: str
    when: list[str]  # all of these must hold
    enabled: bool
    hits: int  # since the proxy started
    last_hit: float | None  # Unix seconds
    line: int | None


class PolicyInfo(msgspec.Struct, kw_only=True, frozen=True):
    """One policy in force. `text` is present if it was requested."""

    name: str
    tenant: str | None  # None: of all
    version: str
    file: str
    loaded_at: float  # Unix seconds
    defaults: dict[Phase, str]
    rules: list[RuleInfo]
    text: str | None = None


class Reloaded(msgspec.Struct, kw_only=True, frozen=True):
    """The result of a reload."""

    version: str
    before: str
    rules: int
    revoked: int  # live flows that were ended, because they are no longer allowed


class Question(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How would this flow, or request, be decided?"""

    flow: FlowText
    phase: Phase = "network"


class Near(msgspec.Struct, kw_only=True, frozen=True):
    """A rule that does not match a flow, and its conditions that fail."""

    rule: str
    policy: str
    action: str
    failed: list[str]
    held: int  # conditions that hold


class Explanation(msgspec.Struct, kw_only=True, frozen=True):
    """How a phase would decide, and why."""

    phase: Phase
    tenant: str | None
    action: str
    policy: str
    rule: str
    version: str | None
    reason: str | None
    verdict: Verdict
    decisions: list[Decision]
    close: list[Near]
    missing: list[str]  # fields that rules use but the described flow lacks
