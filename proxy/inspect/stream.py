"""The interface between a session and its reader: a stream for each side, and the handler of their bytes."""

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

LOW_WATER = 64 << 10  # bytes queued below which `Handler.drained` is called
MID_WATER = 224 << 10  # provided there had been more than this: a single read of 192 KiB causes no call


class Side(enum.Enum):
    """The two ends of a session."""

    CLIENT = "client"
    ORIGIN = "origin"


class Stream(Protocol):
    """One side of a session in clear text: plain TCP, or terminated TLS."""

    @property
    def tls(self) -> TLSFacts | None:
        """Facts of the TLS connection; None for plain TCP."""
        ...

    @property
    def queued(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data`. Never blocks or raises: errors are reported to `Handler.broken`."""
        ...

    def end(self) -> None:
        """Close the sending half once the queue is sent: close_notify over TLS, then FIN."""
        ...

    def abort(self) -> None:
        """Close at once, with a reset."""
        ...

    def pause(self) -> None:
        """Stop reading; TCP flow control then stops the peer."""
        ...

    def resume(self) -> None:
        """Continue reading."""
        ...


class Handler(Protocol):
    """Reads a session: an HTTP conversation, a relay, and so on."""

    def start(self) -> None:
        """Called once, before all others, when both sides are ready."""
        ...

    def received(self, side: Side, data: bytes) -> None:
        """`side` has sent `data`, never empty."""
        ...

    def ended(self, side: Side) -> None:
        """`side` has sent FIN or close_notify."""
        ...

    def broken(self, side: Side, error: OSError) -> None:
        """The connection of `side` has failed: reset, timeout, or a TLS error. It can neither be read nor written."""
        ...

    def drained(self, side: Side) -> None:
        """The queue of `side` fell below `LOW_WATER` after it had been above `MID_WATER`."""
        ...

    def expired(self, now: float) -> None:
        """The time set by `SessionView.arm` has passed."""
        ...

    def drain(self) -> None:
        """End soon and politely: by `Connection: close`, GOAWAY, or close code 1001."""
        ...


class Receiver(Protocol):
    """Reads one stream that a handler has dialled: like `Handler`, for this stream only."""

    def received(self, data: bytes) -> None:
        """The peer has sent `data`, never empty."""
        ...

    def ended(self) -> None:
        """The peer has sent FIN or close_notify."""
        ...

    def broken(self, error: OSError) -> None:
        """The connection has failed."""
        ...

    def drained(self) -> None:
        """Its queue fell below `LOW_WATER` after it had been above `MID_WATER`."""
        ...


class SessionView(Protocol):
    """What a handler can see of its session and ask of it."""

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
        """Call `Handler.expired` after `seconds`, replacing any time set before; None: never."""
        ...

    def at_end(self, function: Callable[[], None]) -> None:
        """Call `function` once the session has ended, however it ended."""
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
        """Open another connection: for a request that policy sends to another origin, or a second one to the same.

        `host`: a name or an address. `server_name`: use TLS with this name, verified; None: plain TCP. `alpn`: in order
        of preference. `then` gets the stream, or the error; `receiver` gets what arrives. The connection is closed with
        the session, or earlier by its own `end` or `abort`.
        """
        ...

    def has(self, hook: str) -> bool:
        """Whether the application defines this hook."""
        ...

    def judge(self, phase: Phase, facts: Mapping[str, Any]) -> Ruling | None:
        """The ruling of the policies of `phase`; None if there are none."""
        ...

    def count(self, limits: tuple[RuleIdentity, ...], then: Callable[[Ruling | None], None]) -> None:
        """Count a request against limits that `judge` has named. `then` gets the denial if it exceeds one, or None."""
        ...

    def ask(self, hook: str, argument: Any, then: Callable[[Any], None]) -> None:
        """Ask a hook; `then` gets its answer. Without such a hook, `then(None)` is called at once."""
        ...

    def notify_hook(self, hook: str, argument: Any) -> None:
        """Inform the proxy's side of a hook, without waiting for an answer."""
        ...

    def record(self, child: msgspec.Struct) -> None:
        """Log a child record of the flow: a request, a message, and so on."""
        ...

    def upgrade(self, handler: Handler, leftover: Mapping[Side, bytes]) -> None:
        """Continue with another handler, which first gets `leftover`: what this one had read beyond its protocol."""
        ...

    def finish(self, reason: CloseReason, by: ClosedBy) -> None:
        """End the session: send what is queued, then close both sides."""
        ...
