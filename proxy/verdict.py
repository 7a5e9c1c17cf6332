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
    """A response that the application gives in place of the origin's."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    headers: tuple[HeaderChange, ...] = ()
    body: bytes = b""


class HttpEffects(msgspec.Struct, frozen=True, kw_only=True):
    """What a verdict of the phase `http` does to a request and its response, besides allowing or denying it."""

    status: int | None = None  # of a denial (403), or of a redirect (302)
    page: str | None = None  # the words that the client reads when it is denied; none of them: the bare status
    location: str | None = None  # where it is redirected to
    request_headers: tuple[HeaderChange, ...] = ()
    response_headers: tuple[HeaderChange, ...] = ()
    answer: HttpAnswer | None = None
    reads: tuple[Literal["request", "response"], ...] = ()  # bodies that the hook `http_body` is shown
    # there are rules whose conditions name `http.response.*` or `http.download.*`: ask again when the answer is there
    judge_response: bool = False


class Pace(msgspec.Struct, frozen=True):
    """A limit of the bytes in a second, in each direction, which all flows of the same pool share."""

    bytes_per_s: float
    pool: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of whoever decides. The default allows and leaves everything else as it was."""

    action: Action = "allow"
    reason: str | None = None
    # how a denial is told: RST or ICMP port unreachable, ICMP 'administratively prohibited', or not at all
    refusal: Refusal | None = None
    level: LevelName | None = None  # how high the flow is lifted
    offramp: str | None = None  # where it leaves: `sockets`, `kernel`, `clients` or `site:NAME`
    origin: tuple[str, int] | None = None  # the address and port that it goes to instead of those it asked for
    ttl_s: float | None = None  # how long this answer holds; then the flow is judged again
    http: HttpEffects | None = None  # of the phase `http` only
    paces: tuple[Pace, ...] = ()  # the flow is lifted to a stream; TCP is slowed down, of UDP the rest is dropped

    @property
    def is_denial(self) -> bool:
        """Whether the flow must not be."""
        return self.action == "deny"

    @property
    def ending(self) -> Literal["denied", "proxy_error"]:
        """Why a flow ends that this does not let be."""
        return "denied"


class Failure(Verdict, frozen=True):
    """The denial of a hook or a policy that has failed."""

    @property
    def ending(self) -> Literal["denied", "proxy_error"]:
        return "proxy_error"


class Decision(msgspec.Struct, frozen=True):
    """One thing that was said about the flow: at which stage, by which policy and rule, and why."""

    stage: str
    policy: str
    action: str
    rule: str | None = None
    enforced: bool = True
    reason: str | None = None
    version: str | None = None  # of the policy


RuleIdentity = tuple[str | None, str, str]  # tenant (None: of all), policy and name: the same in each version


class Ruling(msgspec.Struct, frozen=True):
    """What a policy says about a flow: the verdict that is in force, and each decision on the way to it."""

    verdict: Verdict
    decisions: list[Decision]
    limits: tuple[RuleIdentity, ...] = ()  # rules that hold as long as their limits do, which are counted elsewhere


ALLOW = Verdict()
PROVED = Verdict(reason="proved")  # the hook `ssh_auth`: the password or the answers are right


def deny(reason: str, *, refusal: Refusal | None = None) -> Verdict:
    """A denial with its reason; `refusal` as in `Verdict`."""
    return Verdict(action="deny", reason=reason, refusal=refusal)
