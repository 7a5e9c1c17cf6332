"""One session in an inspector: its two streams, their handler, and what the handler may request."""

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
from proxy.policy.carried import FactsCache
from proxy.policy.phases import Phase
from proxy.poller import Lane, Poller
from proxy.session.facts import FlowFacts
from proxy.session.messages import (
    DialAnswer,
    DialClosed,
    DialRequest,
    EndChannel,
    Ended,
    LeafAnswer,
    LeafRequest,
    LimitAnswer,
    LimitRequest,
    Pass,
    ReadLevel,
    SessionFacts,
    TenantRules,
    WatchChannel,
)
from proxy.verdict import Decision, RuleIdentity, Ruling

FINISH_S, FINISH_BYTES = 30.0, 3_000  # a peer that takes fewer of its queued bytes in this time is abandoned

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


class InspectorView(Protocol):
    """What a session needs of its inspector."""

    poller: Poller
    turn: Turn
    wheel: Wheel[Session]

    def tls_of(self, tenant: str) -> TenantTLS: ...

    def send(self, message: msgspec.Struct) -> None: ...

    def ask_proxy(self, make_request: Callable[[int], msgspec.Struct], then: Callable[[Any, list[int]], None]) -> None:
        """Send the message `make_request(request)`; `then` gets the answer and its descriptors."""
        ...

    def judge(
        self, phase: Phase, flow: FlowFacts, facts: Mapping[str, Any], cache: FactsCache | None = None
    ) -> Ruling | None: ...

    def record(self, session: int, child: msgspec.Struct) -> None: ...

    def has_hook(self, hook: str) -> bool: ...

    def ask_hook(self, session: int, hook: str, argument: Any, then: Callable[[Any], None]) -> None: ...
    def notify_hook(self, session: int, hook: str, argument: Any) -> None: ...
    def rules_of(self, tenant: str) -> TenantRules: ...

    def now(self) -> float: ...

    def forget(self, session: Session) -> None: ...


class Session:
    """A `SessionView`. It ends once, and reports to the proxy how."""

    __slots__ = ("_aborted", "_at_end", "_dials", "_facts_cache", "_finish", "_inspector", "_is_over", "_reported",
                 "_sockets", "_streams", "_unsent", "channels", "decisions", "flow", "handler", "level", "number",
                 "origin_error", "poller", "protocol", "stage", "timer_due", "timer_slot", "tls_record")  # fmt: skip

    def __init__(self, inspector: InspectorView, number: int, flow: FlowFacts, level: ReadLevel, client: socket.socket,
                 origin: socket.socket) -> None:  # fmt: skip
        self._inspector, self.number, self.flow, self.level = inspector, number, flow, level
        self.poller = Lane(inspector.poller, (flow.tenant, flow.src))
        self.channels: Channels | None = None  # of SSH
        self._sockets: dict[Side, socket.socket] = {Side.CLIENT: client, Side.ORIGIN: origin}
        self._streams: dict[Side, SocketStream] = {}
        self._dials: list[Dial] = []
        self._at_end: list[Callable[[], None]] = []
        self._aborted: set[Side] = set()
        self._facts_cache: FactsCache = {}
        self._reported: tuple[Any, ...] = ()  # the facts last reported to the proxy
        self._finish: tuple[CloseReason, ClosedBy] | None = None
        self._is_over = False
        self.handler: Handler | None = None
        self.stage: Stage | None = None
        self.origin_error: ProxyError | None = None
        self.protocol: str | None = None
        self.tls_record: TLSRecord | None = None
        self.decisions: list[Decision] = []
        self._unsent = 0  # bytes queued for both peers when last checked
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
        return self._inspector.now()

    def arm(self, seconds: float | None) -> None:
        if seconds is None:
            self._inspector.wheel.disarm(self)
        elif not self._is_over:
            self._inspector.wheel.arm(self, self._inspector.now() + seconds)

    def at_end(self, function: Callable[[], None]) -> None:
        self._at_end.append(function)

    def dial(
        self, host: str, port: int, *, server_name: str | None, alpn: Sequence[str], receiver: Receiver,
        then: Callable[[Stream | ProxyError], None],
    ) -> None:  # fmt: skip
        inspector = self._inspector
        self._forget_dials()
        dial = Dial(inspector.tls_of(self.flow.tenant), self.poller, inspector.turn, self.crashed, receiver, then)
        self._dials.append(dial)

        def answered(answer: DialAnswer, descriptors: list[int]) -> None:
            with inspector.turn:
                dial.answered(answer, descriptors, host, port, server_name, alpn)

        def make_request(request: int) -> DialRequest:
            dial.request = request
            return DialRequest(request, self.number, host, port)

        inspector.ask_proxy(make_request, answered)

    def _forget_dials(self) -> None:
        """Close those that have ended: a long session may have many."""
        for dial in [each for each in self._dials if each.is_over]:
            dial.close()
            self._dials.remove(dial)
            self._inspector.send(DialClosed(self.number, dial.request))

    def has(self, hook: str) -> bool:
        return self._inspector.has_hook(hook)

    def judge(self, phase: Phase, facts: Mapping[str, Any]) -> Ruling | None:
        cache = None if phase == "tls" else self._facts_cache  # `tls` is judged once
        return self._inspector.judge(phase, self.flow, facts, cache)

    def count(self, limits: tuple[RuleIdentity, ...], then: Callable[[Ruling | None], None]) -> None:
        def answered(answer: LimitAnswer, _: list[int]) -> None:
            if not self._is_over:
                with self._inspector.turn:
                    then(answer.ruling)

        self._inspector.ask_proxy(lambda request: LimitRequest(request, self.number, limits), answered)

    def ask(self, hook: str, argument: Any, then: Callable[[Any], None]) -> None:
        def answered(answer: Any) -> None:
            if not self._is_over:
                with self._inspector.turn:
                    then(answer)

        self._inspector.ask_hook(self.number, hook, argument, answered)

    def notify_hook(self, hook: str, argument: Any) -> None:
        self._inspector.notify_hook(self.number, hook, argument)

    def record(self, child: msgspec.Struct) -> None:
        self._inspector.record(self.number, child)

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
        self._arm_finish_timer()
        for dial in self._dials:
            dial.finish(self._settled)
        self._aborted |= {side for side, stream in self._streams.items() if stream.is_closed}
        for stream in self._streams.values():
            stream.finish(self._settled)

    # For stages and the inspector.

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def inspector(self) -> InspectorView:
        return self._inspector

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
        self.report()
        self.handler = handler
        for stream in self._streams.values():
            stream.handler = handler
        with self._inspector.turn:
            handler.start()
            for stream in self._streams.values():
                stream.resume()

    def report(self) -> None:
        """Report the facts known so far to the proxy, for the flow's record."""
        level = self.level if self._streams else None
        facts = (self.protocol, level, self.tls_record)
        if self.decisions or facts != self._reported:
            self._reported = facts
            self._inspector.send(SessionFacts(self.number, *facts, self.decisions))
            self.decisions = []

    def request_leaf(self, name: str, untrusted: bool, then: Callable[[LeafAnswer], None]) -> None:
        """Ask the proxy for a certificate."""

        def answered(answer: LeafAnswer, descriptors: list[int]) -> None:
            if not self._is_over:
                then(answer)

        self._inspector.ask_proxy(lambda request: LeafRequest(request, self.number, name, untrusted), answered)

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

        self._inspector.ask_proxy(lambda request: DialRequest(request, self.number), answered)

    def pass_on(self) -> None:
        """Hand the untouched session back to the proxy, which relays it."""
        self.report()
        self._close()
        self._inspector.send(Pass(self.number))
        self._inspector.forget(self)

    def end(self, reason: CloseReason, by: ClosedBy, cut: Cut = "both") -> None:
        """End the session at once."""
        if self._is_over:
            return
        self.report()
        self._close()
        self._inspector.send(Ended(self.number, reason, by, cut, "" if cut == "both" else "Ff"))
        self._inspector.forget(self)

    def killed(self) -> None:
        """The proxy has ended it."""
        if not self._is_over:
            self._close()
            self._inspector.forget(self)

    def drain(self) -> None:
        """End politely."""
        if self.stage is not None:
            self.stage.drain()
        elif self.handler is not None and self._finish is None:
            with self._inspector.turn:
                self.handler.drain()

    def expired(self, now: float) -> None:
        """The timer of the stage or handler has fired."""
        if self._finish is not None:
            if self._unsent - self._queued() < FINISH_BYTES:
                self._end_with(*self._finish, {side for side, stream in self._streams.items() if not stream.is_settled})
            else:
                self._arm_finish_timer()
        elif self.stage is not None:
            self.stage.expired()
        elif self.handler is not None:
            with self._inspector.turn:
                self.handler.expired(now)

    def crashed(self, error: BaseException) -> None:
        """End this session, since its reader raised an exception."""
        self.end("proxy_error", "proxy")

    def _settled(self) -> None:
        """End once every stream has sent its queue, or cannot."""
        streams: list[SocketStream | Dial] = [*self._streams.values(), *self._dials]
        if self._finish is None or self._is_over or not all(stream.is_settled for stream in streams):
            return
        self._end_with(*self._finish, {side for side, stream in self._streams.items() if stream.is_closed})

    def _end_with(self, reason: CloseReason, by: ClosedBy, unsettled: set[Side]) -> None:
        aborted = self._aborted | unsettled
        cut: Cut = "both" if len(aborted) == 2 else "client" if Side.CLIENT in aborted else "origin" if aborted else ""
        self.end(reason, by, cut)

    def _arm_finish_timer(self) -> None:
        self._unsent = self._queued()
        self._inspector.wheel.arm(self, self._inspector.now() + FINISH_S)

    def _queued(self) -> int:
        return sum(each.queued for each in self._streams.values()) + sum(each.queued for each in self._dials)

    def _close(self) -> None:
        self._is_over = True
        self._inspector.wheel.disarm(self)
        for function in self._at_end:
            function()
        if self.stage is not None:
            self.stage.stop()
            self.stage = None
        for dial in self._dials:
            dial.close()
        for stream in self._streams.values():
            stream.settled = None
            stream.close()
        for sock in self._sockets.values():
            sock.close()
