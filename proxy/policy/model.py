"""The schema of a policy file."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proxy.policy.phases import Phase
from proxy.settings.parts import Count, Name, Part, Seconds
from proxy.verdict import LevelName, Refusal

Action = Literal[
    "allow", "block", "audit", "inspect", "do-not-inspect", "route", "rate-limit", "quarantine",
    "redirect", "override-origin", "set-header", "remove-header", "inspect-body", "log",
]  # fmt: skip
Default = Literal["allow", "deny"]
Per = Literal["tenant", "user", "device", "source", "rule"]
Several = str | int | list[str | int]
Label = Annotated[str, Meta(min_length=1, max_length=128)]
FieldName = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
FieldValue = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*$")]
Rate = Annotated[float, Meta(gt=0, le=1e9)]

DECIDING: tuple[Action, ...] = (
    "allow",
    "block",
    "quarantine",
    "redirect",
    "override-origin",
)  # a matching rule with one of these ends the phase
SELECTORS = (
    "src", "dst", "port", "protocol", "user", "group", "device", "posture", "host", "onramp", "site", "network",
    "tenant",
)  # fmt: skip


class RuleText(Part, frozen=True):
    """One rule. It matches if `when`, all selectors and the schedule do."""

    name: Label
    action: Action
    phase: Phase = "network"
    precedence: int | None = None  # ascending; by default that of the rule before
    when: str | None = None
    enabled: bool = True
    schedule: dict[str, str] | None = None  # by day: "08:00-12:30,13:30-17:00"; and `time_zone`
    reason: str | None = None  # for the record and the refused client

    src: Several | None = None
    dst: Several | None = None
    port: Several | None = None
    protocol: Several | None = None
    user: Several | None = None
    group: Several | None = None
    device: Several | None = None
    posture: Several | None = None  # checks, all of which the device must have passed
    host: Several | None = None  # may contain `*`
    onramp: Several | None = None
    site: Several | None = None
    network: Several | None = None
    tenant: Several | None = None

    refusal: Refusal | None = None  # block: how the client is refused
    would: Default | Literal["block"] | None = None  # audit: the action that is only recorded
    level: LevelName | None = None  # inspect: up to which level
    offramp: str | None = None  # route: the off-ramp
    origin: str | None = None  # quarantine, override-origin: `address:port`
    status: Annotated[int, Meta(ge=300, le=599)] | None = None  # block, redirect: of the response
    page: str | None = None  # block: the text of the response; "" for the status only
    location: str | None = None  # redirect: the target
    header: FieldName | None = None  # set-header, remove-header
    value: FieldValue | None = None  # set-header
    headers: dict[FieldName, FieldValue] | None = None  # set-header: several at once
    on: Literal["request", "response"] | None = None  # set-header, remove-header, inspect-body; default: request
    flows: Count | None = None  # rate-limit: maximum at once
    flows_per_s: Rate | None = None  # rate-limit: new flows per second
    bytes_per_s: Rate | None = None  # rate-limit: bytes of TCP and UDP per second, in each direction
    per: Per | None = None  # rate-limit: what is counted separately
    ttl_s: Seconds | None = None  # after which the flow is judged again


class ListText(Part, frozen=True):
    """A named list, written here or in a file with one value on each line."""

    values: list[str | int] = msgspec.field(default_factory=list)
    file: str | None = None


class FlowText(Part, frozen=True):
    """A hypothetical flow or request."""

    tenant: str | None = None
    user: str | None = None
    groups: list[str] = msgspec.field(default_factory=list)
    device: str | None = None
    posture: list[str] = msgspec.field(default_factory=list)  # checks that the device has passed
    src: str | None = None
    dst: str | None = None  # an address, or `address:port`
    port: int | None = None
    protocol: str = "tcp"
    host: str | None = None
    onramp: str | None = None
    site: str | None = None
    network: str | None = None
    time: str | None = None  # ISO 8601; by default now
    facts: dict[str, str | int | float | bool | list[str] | dict[str, list[str]]] = msgspec.field(default_factory=dict)


class TestText(Part, frozen=True):
    """A test: the expected decision about a flow. If it fails, the file is rejected."""

    flow: FlowText
    expect: Action | Default
    name: str | None = None
    phase: Phase = "network"
    rule: str | None = None  # that must decide


class PolicyText(Part, frozen=True):
    """One policy file."""

    name: Name | None = None  # by default the file's name
    default: Default | dict[Phase, Default] | None = None  # of flows that no rule decides: of phase `network`
    lists: dict[Name, ListText | list[str | int]] = msgspec.field(default_factory=dict)
    rules: list[RuleText] = msgspec.field(default_factory=list)
    tests: list[TestText] = msgspec.field(default_factory=list)
