"""The handler of a session by its protocol."""

from __future__ import annotations

from collections.abc import Callable

from proxy.inspect.http.conversation import Conversation
from proxy.inspect.http.limits import Identity
from proxy.inspect.relay import Relay
from proxy.inspect.session import Session
from proxy.inspect.stream import Handler, Side
from proxy.wire.sniff import sniff

MAX_FIRST = 65_536

HTTP_ALPN = {"h2": "h2", "http/1.1": "http"}  # ALPN names offered to origins, and the reader of each
IDENTITIES = {"strip": Identity(), "keep": Identity(keeps_alt_svc=True)}


def read_http(session: Session) -> Handler:
    """The handler for HTTP of any version. Without an origin it answers requests with the reason."""
    identity = IDENTITIES[session.inspector.rules_of(session.flow.tenant).alt_svc]
    return Conversation(session, identity=identity, failure=session.origin_error)


READERS: dict[str, Callable[[Session], Handler]] = {"http": read_http, "h2": read_http}


class Inner:
    """Detects the protocol inside TLS by its first bytes, if ALPN was not used."""

    def __init__(self, session: Session, sniff_s: float) -> None:
        self._session, self._sniff_s, self._first = session, sniff_s, b""

    def start(self) -> None:
        self._session.arm(self._sniff_s)

    def received(self, side: Side, data: bytes) -> None:
        if side is Side.ORIGIN:  # the server speaks first
            self._conclude(None, {Side.CLIENT: self._first, Side.ORIGIN: data})
            return
        self._first += data
        found = sniff(self._first)
        if found is not None or len(self._first) > MAX_FIRST:
            self._conclude(READERS.get(found.value) if found is not None else None, {Side.CLIENT: self._first})

    def ended(self, side: Side) -> None:
        self._conclude(None, {Side.CLIENT: self._first})
        if self._session.handler is not None:
            self._session.handler.ended(side)

    def broken(self, side: Side, error: OSError) -> None:
        self._conclude(None, {})
        if self._session.handler is not None:
            self._session.handler.broken(side, error)

    def drained(self, side: Side) -> None:
        """Never called: it writes nothing."""

    def expired(self, now: float) -> None:
        self._conclude(None, {Side.CLIENT: self._first})

    def drain(self) -> None:
        """Nothing to do: no protocol has begun."""

    def _conclude(self, reader: Callable[[Session], Handler] | None, first: dict[Side, bytes]) -> None:
        session = self._session
        if reader is None:
            session.level = "tls"
        session.upgrade(Relay(session) if reader is None else reader(session), first)
