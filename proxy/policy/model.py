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
)  # the phase ends with the first rule of these
SELECTORS = (
    "src", "dst", "port", "protocol", "user", "group", "device", "posture", "host", "onramp", "site", "network",
    "tenant",
)  # fmt: skip


class RuleText(Part, frozen=True):
    """One rule. Everything that it says of a flow must hold: `when`, the selectors, and the schedule."""

    name: Label
    action: Action
    phase: Phase = "network"
    precedence: int | None = None  # ascending; without one, that of the rule before it
    when: str | None = None
    enabled: bool = True
    schedule: dict[str, str] | None = None  # by day: "08:00-12:30,13:30-17:00"; and `time_zone`
    reason: str | None = None  # for the record and whoever is refused

    src: Several | None = None
    dst: Several | None = None
    port: Several | None = None
    protocol: Several | None = None
    user: Several | None = None
    group: Several | None = None
    device: Several | None = None
    posture: Several | None = None  # checks that the device must have passed, all of them
    host: Several | None = None  # may hold `*`
    onramp: Several | None = None
    site: Several | None = None
    network: Several | None = None
    tenant: Several | None = None

    refusal: Refusal | None = None  # block: how it is told
    would: Default | Literal["block"] | None = None  # audit: what it would have done
    level: LevelName | None = None  # inspect: how high
    offramp: str | None = None  # route: where it leaves
    origin: str | None = None  # quarantine, override-origin: `address:port`
    status: Annotated[int, Meta(ge=300, le=599)] | None = None  # block, redirect: of the response
    page: str | None = None  # block: the words that the client reads; "" for the bare status
    location: str | None = None  # redirect: where to
    header: FieldName | None = None  # set-header, remove-header
    value: FieldValue | None = None  # set-header
    headers: dict[FieldName, FieldValue] | None = None  # set-header: several at once
    on: Literal["request", "response"] | None = None  # set-header, remove-header, inspect-body: whose; the request's
    flows: Count | None = None  # rate-limit: how many at once
    flows_per_s: Rate | None = None  # rate-limit: how many may begin in a second
    bytes_per_s: Rate | None = None  # rate-limit: how many bytes of TCP and UDP may move in a second, in each direction
    per: Per | None = None  # rate-limit: what is counted by itself
    ttl_s: Seconds | None = None  # then the flow is judged again


class ListText(Part, frozen=True):
    """Values by a name, written here or in a file with one on each line."""

    values: list[str | int] = msgspec.field(default_factory=list)
    file: str | None = None


class FlowText(Part, frozen=True):
    """A flow, or a request, that never was."""

    tenant: str | None = None
    user: str | None = None
    groups: list[str] = msgspec.field(default_factory=list)
    device: str | None = None
    posture: list[str] = msgspec.field(default_factory=list)  # checks that it has passed
    src: str | None = None
    dst: str | None = None  # an address, or `address:port`
    port: int | None = None
    protocol: str = "tcp"
    host: str | None = None
    onramp: str | None = None
    site: str | None = None
    network: str | None = None
    time: str | None = None  # ISO 8601; now without one
    facts: dict[str, str | int | float | bool | list[str] | dict[str, list[str]]] = msgspec.field(default_factory=dict)


class TestText(Part, frozen=True):
    """How a flow must be decided, for the file to be taken."""

    flow: FlowText
    expect: Action | Default
    name: str | None = None
    phase: Phase = "network"
    rule: str | None = None  # that must decide


class PolicyText(Part, frozen=True):
    """One policy file."""

    name: Name | None = None  # the file's own without one
    default: Default | dict[Phase, Default] | None = None  # of flows that no rule decides: of phase `network`
    lists: dict[Name, ListText | list[str | int]] = msgspec.field(default_factory=dict)
    rules: list[RuleText] = msgspec.field(default_factory=list)
    tests: list[TestText] = msgspec.field(default_factory=list)
