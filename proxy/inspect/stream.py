"""The contract between a session and what reads it: the streams of both sides, and the handler of their bytes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from proxy.errors import ProxyError
from proxy.flow.record import ClosedBy, CloseReason
from proxy.policy.phases import Phase
from proxy.session.facts import FlowFacts, TLSFacts
from proxy.verdict import RuleIdentity, Ruling

LOW_WATER = 64 << 10  # bytes: below this many queued, `Handler.drained` is called
MID_WATER = 128 << 10  # if there had been more than these: what one read brings, 64 KiB, leaves without a word


class Side(enum.Enum):
    """The two ends of a session."""

    CLIENT = "client"
    ORIGIN = "origin"


class Stream(Protocol):
    """One side of a session in clear bytes: plain TCP, or TLS that ends here."""

    @property
    def tls(self) -> TLSFacts | None:
        """What was agreed; None for plain TCP."""
        ...

    @property
    def queued(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` behind what is queued. Never blocks and never raises: errors come by `Handler.broken`."""
        ...

    def end(self) -> None:
        """Close the sending half behind what is queued: close_notify where there is TLS, then FIN."""
        ...

    def abort(self) -> None:
        """Close at once, with a reset."""
        ...

    def pause(self) -> None:
        """Stop reading; TCP's own window then slows the far end down."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...


class Handler(Protocol):
    """Reads a session: an HTTP conversation, a relay, and so on."""

    def start(self) -> None:
        """Both sides are ready: called once, before anything else."""
        ...

    def received(self, side: Side, data: bytes) -> None:
        """`side` has sent `data`, which is never empty."""
        ...

    def ended(self, side: Side) -> None:
        """`side` sends no more: FIN or close_notify."""
        ...

    def broken(self, side: Side, error: OSError) -> None:
        """`side` is gone: reset, timeout, or a TLS error. Nothing more can be read from it or written to it."""
        ...

    def drained(self, side: Side) -> None:
        """What is queued for `side` fell below `LOW_WATER`, after it had been above `MID_WATER`."""
        ...

    def expired(self, now: float) -> None:
        """The time set by `SessionView.arm` has come."""
        ...

    def drain(self) -> None:
        """End politely soon: `Connection: close`, GOAWAY, 1001."""
        ...


class Receiver(Protocol):
    """Reads one stream that a handler has dialled itself: as `Handler`, of this stream only."""

    def received(self, data: bytes) -> None:
        """It has sent `data`, which is never empty."""
        ...

    def ended(self) -> None:
        """It sends no more."""
        ...

    def broken(self, error: OSError) -> None:
        """It is gone."""
        ...

    def drained(self) -> None:
        """What is queued for it fell below `LOW_WATER`, after it had been above `MID_WATER`."""
        ...


class SessionView(Protocol):
    """What a handler knows of its session, and what it can ask of it."""

    @property
    def flow(self) -> FlowFacts: ...

    @property
    def client(self) -> Stream: ...

    @property
    def origin(self) -> Stream | None: ...

    def now(self) -> float:
        """Seconds on the monotonic clock."""
        ...

    def arm(self, seconds: float | None) -> None:
        """Call `Handler.expired` after so long, instead of any time set before; None: never."""
        ...

    def dial(
        self,
        host: str,
        port: int,
        *,
        server_name: str | None,
        alpn: Sequence[str],
        receiver: Receiver,
        then: Callable[[Stream | ProxyError], None],
    ) -> None:
        """Connect to an origin beside the present one: a request that policy sends elsewhere, or a second connection.

        `host`: a name or an address. `server_name`: TLS with that name, verified; None: plain TCP. `alpn`: what may be
        agreed, in order of preference. `then` gets the stream, or why there is none; what comes from it goes to
        `receiver`. It is closed with the session, or earlier by its own `end` or `abort`.
        """
        ...

    def has(self, hook: str) -> bool:
        """Whether the application has a hook of this name."""
        ...

    def judge(self, phase: Phase, facts: Mapping[str, Any]) -> Ruling | None:
        """What the policies of `phase` say; None when there are none."""
        ...

    def count(self, limits: tuple[RuleIdentity, ...], then: Callable[[Ruling | None], None]) -> None:
        """Count a request by limits that `judge` has named; `then` gets the denial of what is over one, or None."""
        ...

    def ask(self, hook: str, argument: Any, then: Callable[[Any], None]) -> None:
        """Call `then` with the answer of a hook: at once, with None, where the application has none."""
        ...

    def tell_hook(self, hook: str, argument: Any) -> None:
        """Let the hook's side know what it is not asked about."""
        ...

    def record(self, child: msgspec.Struct) -> None:
        """Log a child record of the flow: a request, a message, and so on."""
        ...

    def upgrade(self, handler: Handler, leftover: Mapping[Side, bytes]) -> None:
        """Let another handler read on, beginning with what this one had read too much of."""
        ...

    def finish(self, reason: CloseReason, by: ClosedBy) -> None:
        """End the session: what is queued is sent, then both sides are closed."""
        ...
