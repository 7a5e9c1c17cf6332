"""Verdicts about flows, given by a hook or a policy, and the record of who decided what and why."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Action = Literal["allow", "deny"]
Refusal = Literal["reset", "unreachable", "drop"]
LevelName = Literal["packet", "stream", "tls", "http", "ssh"]


class HeaderChange(msgspec.Struct, frozen=True):
    """One header field to set, in place of all of that name; without a value it is removed."""

    name: str
    value: str | None = None


class HttpAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A response that the application sends in place of the origin's."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    headers: tuple[HeaderChange, ...] = ()
    body: bytes = b""


class HttpEffects(msgspec.Struct, frozen=True, kw_only=True):
    """The effects of a verdict of the phase `http` on a request and its response, besides allowing or denying it."""

    status: int | None = None  # of a denial (403), or of a redirect (302)
    page: str | None = None  # the text of a denial; None or empty: the status only
    location: str | None = None  # the target of a redirect
    request_headers: tuple[HeaderChange, ...] = ()
    response_headers: tuple[HeaderChange, ...] = ()
    answer: HttpAnswer | None = None
    reads: tuple[Literal["request", "response"], ...] = ()  # bodies passed to the hook `http_body`
    # conditions of rules use `http.response.*` or `http.download.*`: judge again once the response is there
    judge_response: bool = False


class Pace(msgspec.Struct, frozen=True):
    """A limit of bytes per second, in each direction, shared by all flows of the same pool."""

    bytes_per_s: float
    pool: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The decision of a hook or policy. The default allows, and leaves everything else as it was."""

    action: Action = "allow"
    reason: str | None = None
    # how a denied flow is answered: RST or ICMP port unreachable, ICMP 'administratively prohibited', or not at all
    refusal: Refusal | None = None
    level: LevelName | None = None  # the level to which the flow is lifted
    offramp: str | None = None  # `sockets`, `kernel`, `clients` or `site:NAME`
    origin: tuple[str, int] | None = None  # the address and port to use in place of the flow's own
    ttl_s: float | None = None  # how long this verdict is valid; then the flow is judged again
    http: HttpEffects | None = None  # in the phase `http` only
    paces: tuple[Pace, ...] = ()  # the flow is lifted to a stream; TCP is slowed down, of UDP the rest is dropped

    @property
    def is_denial(self) -> bool:
        """Whether the flow is denied."""
        return self.action == "deny"

    @property
    def ending(self) -> Literal["denied", "proxy_error"]:
        """The close reason of a flow that this verdict ends."""
        return "denied"


class Failure(Verdict, frozen=True):
    """The denial by a hook or a policy that has failed."""

    @property
    def ending(self) -> Literal["denied", "proxy_error"]:
        return "proxy_error"


class Decision(msgspec.Struct, frozen=True):
    """One decision about the flow: its stage, the policy and rule, and the reason."""

    stage: str
    policy: str
    action: str
    rule: str | None = None
    enforced: bool = True
    reason: str | None = None
    version: str | None = None  # of the policy


RuleIdentity = tuple[str | None, str, str]  # tenant (None: all), policy and name: the same in each version


class Ruling(msgspec.Struct, frozen=True):
    """A policy's decision about a flow: the verdict in force, and all decisions that led to it."""

    verdict: Verdict
    decisions: list[Decision]
    limits: tuple[RuleIdentity, ...] = ()  # matching rules whose limits are counted elsewhere


ALLOW = Verdict()
PROVED = Verdict(reason="proved")  # the hook `ssh_auth`: the password or the answers are correct


def deny(reason: str, *, refusal: Refusal | None = None) -> Verdict:
    """A denial with its reason; `refusal` as in `Verdict`."""
    return Verdict(action="deny", reason=reason, refusal=refusal)
