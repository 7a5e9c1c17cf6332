"""One session in an inspector: its two streams, their handler, and what the handler may ask for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from proxy.errors import ProxyError
from proxy.flow.record import ClosedBy, CloseReason, TLSRecord
from proxy.flow.timers import Wheel
from proxy.inspect.dials import Dial
from proxy.inspect.sockets import SocketStream, Turn
from proxy.inspect.stream import Handler, Receiver, Side, Stream
from proxy.inspect.tls import TenantTLS
from proxy.policy.carried import Known
from proxy.policy.phases import Phase
from proxy.poller import Lane, Poller
from proxy.session.facts import FlowFacts
from proxy.session.messages import (
    DialAnswer,
    DialOver,
    DialWanted,
    EndChannel,
    Ended,
    LeafAnswer,
    LeafWanted,
    LimitAnswer,
    LimitWanted,
    Pass,
    ReadLevel,
    Seen,
    TenantRules,
    WatchChannel,
)
from proxy.verdict import Decision, RuleIdentity, Ruling

FINISH_S, FINISH_BYTES = 30.0, 3_000  # a peer that takes fewer of its queued bytes than this in this time is given up

Cut = Literal["", "client", "origin", "both"]


class Stage(Protocol):
    """The state of a session before it has a handler."""

    def expired(self) -> None:
        """Its time limit has passed."""
        ...

    def drain(self) -> None:
        """The session should end soon, politely."""
        ...

    def stop(self) -> None:
        """The session has ended: stop waiting for anything."""
        ...


class Channels(Protocol):
    """The SSH channels of a session, which the proxy can watch and end."""

    def take(self, message: WatchChannel | EndChannel) -> None: ...


class Home(Protocol):
    """What a session needs of its inspector."""

    poller: Poller
    turn: Turn
    wheel: Wheel[Session]

    def tls_of(self, tenant: str) -> TenantTLS: ...

    def send(self, message: msgspec.Struct) -> None: ...

    def ask_proxy(self, wanted: Callable[[int], msgspec.Struct], then: Callable[[Any, list[int]], None]) -> None:
        """Send the message `wanted(request)`; `then` gets the answer and its descriptors."""
        ...

    def judge(
        self, phase: Phase, flow: FlowFacts, facts: Mapping[str, Any], known: Known | None = None
    ) -> Ruling | None: ...

    def record(self, session: int, child: msgspec.Struct) -> None: ...

    def has_hook(self, hook: str) -> bool: ...

    def ask_hook(self, session: int, hook: str, argument: Any, then: Callable[[Any], None]) -> None: ...
    def tell_hook(self, session: int, hook: str, argument: Any) -> None: ...
    def rules_of(self, tenant: str) -> TenantRules: ...

    def now(self) -> float: ...

    def forget(self, session: Session) -> None: ...


class Session:
    """A `SessionView`. It ends once, and reports to the proxy how."""

    __slots__ = ("_aborted", "_at_end", "_beside", "_finish", "_home", "_is_over", "_known", "_sockets", "_streams",
                 "_told", "_unsent", "channels", "decisions", "flow", "handler", "level", "number", "origin_error",
                 "poller", "protocol", "stage", "timer_due", "timer_slot", "tls_record")  # fmt: skip

    def __init__(self, home: Home, number: int, flow: FlowFacts, level: ReadLevel, client: socket.socket,
                 origin: socket.socket) -> None:  # fmt: skip
        self._home, self.number, self.flow, self.level = home, number, flow, level
        self.poller = Lane(home.poller, (flow.tenant, flow.src))
        self.channels: Channels | None = None  # of SSH
        self._sockets: dict[Side, socket.socket] = {Side.CLIENT: client, Side.ORIGIN: origin}
        self._streams: dict[Side, SocketStream] = {}
        self._beside: list[Dial] = []
        self._at_end: list[Callable[[], None]] = []
        self._aborted: set[Side] = set()
        self._known: Known = {}
        self._told: tuple[Any, ...] = ()  # what was last reported to the proxy
        self._finish: tuple[CloseReason, ClosedBy] | None = None
        self._is_over = False
        self.handler: Handler | None = None
        self.stage: Stage | None = None
        self.origin_error: ProxyError | None = None
        self.protocol: str | None = None
        self.tls_record: TLSRecord | None = None
        self.decisions: list[Decision] = []
        self._unsent = 0  # bytes queued for both peers at the last look
        self.timer_slot = self.timer_due = 0

    def __repr__(self) -> str:
        return f"<session of flow {self.flow.id}, {self.level}>"

    # For handlers.

    @property
    def client(self) -> Stream:
        return self._streams[Side.CLIENT]

    @property
    def origin(self) -> Stream | None:
        return self._streams.get(Side.ORIGIN)

    def now(self) -> float:
        return self._home.now()

    def arm(self, seconds: float | None) -> None:
        if seconds is None:
            self._home.wheel.disarm(self)
        elif not self._is_over:
            self._home.wheel.arm(self, self._home.now() + seconds)

    def at_end(self, function: Callable[[], None]) -> None:
        self._at_end.append(function)

    def dial(
        self, host: str, port: int, *, server_name: str | None, alpn: Sequence[str], receiver: Receiver,
        then: Callable[[Stream | ProxyError], None],
    ) -> None:  # fmt: skip
        home = self._home
        self._forget_dials()
        dial = Dial(home.tls_of(self.flow.tenant), self.poller, home.turn, self.crashed, receiver, then)
        self._beside.append(dial)

        def answered(answer: DialAnswer, descriptors: list[int]) -> None:
            with home.turn:
                dial.answered(answer, descriptors, host, port, server_name, alpn)

        def wanted(request: int) -> DialWanted:
            dial.request = request
            return DialWanted(request, self.number, host, port)

        home.ask_proxy(wanted, answered)

    def _forget_dials(self) -> None:
        """Close those that have ended: a long session may have many."""
        for dial in [each for each in self._beside if each.is_over]:
            dial.close()
            self._beside.remove(dial)
            self._home.send(DialOver(self.number, dial.request))

    def has(self, hook: str) -> bool:
        return self._home.has_hook(hook)

    def judge(self, phase: Phase, facts: Mapping[str, Any]) -> Ruling | None:
        return self._home.judge(phase, self.flow, facts, None if phase == "tls" else self._known)  # asked once

    def count(self, limits: tuple[RuleIdentity, ...], then: Callable[[Ruling | None], None]) -> None:
        def answered(answer: LimitAnswer, _: list[int]) -> None:
            if not self._is_over:
                with self._home.turn:
                    then(answer.ruling)

        self._home.ask_proxy(lambda request: LimitWanted(request, self.number, limits), answered)

    def ask(self, hook: str, argument: Any, then: Callable[[Any], None]) -> None:
        def answered(answer: Any) -> None:
            if not self._is_over:
                with self._home.turn:
                    then(answer)

        self._home.ask_hook(self.number, hook, argument, answered)

    def tell_hook(self, hook: str, argument: Any) -> None:
        self._home.tell_hook(self.number, hook, argument)

    def record(self, child: msgspec.Struct) -> None:
        self._home.record(self.number, child)

    def upgrade(self, handler: Handler, leftover: Mapping[Side, bytes]) -> None:
        self.arm(None)
        self.handler = handler
        for stream in self._streams.values():
            stream.handler = handler
        handler.start()
        for side, data in leftover.items():
            if data and self.handler is handler:
                handler.received(side, data)

    def finish(self, reason: CloseReason, by: ClosedBy) -> None:
        if self._finish is not None or self._is_over:
            return
        self._finish = reason, by
        self._wait_for_far_ends()
        for dial in self._beside:
            dial.finish(self._settled)
        self._aborted |= {side for side, stream in self._streams.items() if stream.is_closed}
        for stream in self._streams.values():
            stream.finish(self._settled)

    # For stages and the inspector.

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def home(self) -> Home:
        return self._home

    def socket_of(self, side: Side) -> socket.socket:
        """The socket of this side, while no stream has it."""
        return self._sockets[side]

    def take_socket(self, side: Side) -> socket.socket:
        """The socket of this side; the caller owns it from now on."""
        return self._sockets.pop(side)

    def replace_socket(self, side: Side, sock: socket.socket) -> None:
        """Replace the socket, by its TLS socket or by a new connection."""
        self._sockets[side] = sock

    def open(self, side: Side, stream: SocketStream) -> None:
        """Hand the socket of this side over to `stream`."""
        self._streams[side] = stream
        self._sockets.pop(side, None)

    def begin(self, handler: Handler) -> None:
        """Start `handler` on the streams, which are open."""
        self.stage = None
        self.arm(None)
        self.tell()
        self.handler = handler
        for stream in self._streams.values():
            stream.handler = handler
        with self._home.turn:
            handler.start()
            for stream in self._streams.values():
                stream.resume()

    def tell(self) -> None:
        """Report what is known so far to the proxy, for the flow's record."""
        level = self.level if self._streams else None
        known = (self.protocol, level, self.tls_record)
        if self.decisions or known != self._told:
            self._told = known
            self._home.send(Seen(self.number, *known, self.decisions))
            self.decisions = []

    def want_leaf(self, name: str, untrusted: bool, then: Callable[[LeafAnswer], None]) -> None:
        """Ask the proxy for a certificate."""

        def answered(answer: LeafAnswer, descriptors: list[int]) -> None:
            if not self._is_over:
                then(answer)

        self._home.ask_proxy(lambda request: LeafWanted(request, self.number, name, untrusted), answered)

    def redial(self, then: Callable[[socket.socket | None], None]) -> None:
        """Replace the connection to the origin, which has been used, by a new one. `then` gets None if that fails."""
        family = self._sockets[Side.ORIGIN].family

        def answered(answer: DialAnswer, descriptors: list[int]) -> None:
            sock = socket.socket(family, socket.SOCK_STREAM, 0, descriptors.pop()) if descriptors else None
            if sock is not None:
                sock.setblocking(False)
            if self._is_over:
                if sock is not None:
                    sock.close()
                return
            if sock is not None:
                self._sockets[Side.ORIGIN].close()
                self._sockets[Side.ORIGIN] = sock
            then(sock)

        self._home.ask_proxy(lambda request: DialWanted(request, self.number), answered)

    def pass_on(self) -> None:
        """Hand the untouched session back to the proxy, which relays it."""
        self.tell()
        self._close()
        self._home.send(Pass(self.number))
        self._home.forget(self)

    def end(self, reason: CloseReason, by: ClosedBy, cut: Cut = "both") -> None:
        """End the session at once."""
        if self._is_over:
            return
        self.tell()
        self._close()
        self._home.send(Ended(self.number, reason, by, cut, "" if cut == "both" else "Ff"))
        self._home.forget(self)

    def killed(self) -> None:
        """The proxy has ended it."""
        if not self._is_over:
            self._close()
            self._home.forget(self)

    def drain(self) -> None:
        """End politely."""
        if self.stage is not None:
            self.stage.drain()
        elif self.handler is not None and self._finish is None:
            with self._home.turn:
                self.handler.drain()

    def expired(self, now: float) -> None:
        """The timer of the stage or handler has fired."""
        if self._finish is not None:
            if self._unsent - self._queued() < FINISH_BYTES:
                self._end_with(*self._finish, {side for side, stream in self._streams.items() if not stream.is_settled})
            else:
                self._wait_for_far_ends()
        elif self.stage is not None:
            self.stage.expired()
        elif self.handler is not None:
            with self._home.turn:
                self.handler.expired(now)

    def crashed(self, error: BaseException) -> None:
        """End this session, since its reader raised an exception."""
        self.end("proxy_error", "proxy")

    def _settled(self) -> None:
        """End once every stream has sent its queue, or cannot."""
        streams: list[SocketStream | Dial] = [*self._streams.values(), *self._beside]
        if self._finish is None or self._is_over or not all(stream.is_settled for stream in streams):
            return
        self._end_with(*self._finish, {side for side, stream in self._streams.items() if stream.is_closed})

    def _end_with(self, reason: CloseReason, by: ClosedBy, unsettled: set[Side]) -> None:
        aborted = self._aborted | unsettled
        cut: Cut = "both" if len(aborted) == 2 else "client" if Side.CLIENT in aborted else "origin" if aborted else ""
        self.end(reason, by, cut)

    def _wait_for_far_ends(self) -> None:
        self._unsent = self._queued()
        self._home.wheel.arm(self, self._home.now() + FINISH_S)

    def _queued(self) -> int:
        return sum(each.queued for each in self._streams.values()) + sum(each.queued for each in self._beside)

    def _close(self) -> None:
        self._is_over = True
        self._home.wheel.disarm(self)
        for function in self._at_end:
            function()
        if self.stage is not None:
            self.stage.stop()
            self.stage = None
        for dial in self._beside:
            dial.close()
        for stream in self._streams.values():
            stream.settled = None
            stream.close()
        for sock in self._sockets.values():
            sock.close()
