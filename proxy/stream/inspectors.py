"""The inspectors: started when a session needs one, assigned sessions, answered, and replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable, Container, Iterator
from typing import Any

import msgspec

from proxy.flow.flow import Flow
from proxy.flow.record import CloseReason
from proxy.hooks.arguments import INSPECTION_HOOKS
from proxy.policy.carried import carry, flow_facts
from proxy.policy.engine import Policies
from proxy.policy.facts import FlowFacts
from proxy.poller import Poller
from proxy.session.channel import Channel, LocalChannel, SocketChannel
from proxy.session.messages import (
    CertificateRequest,
    DialAnswer,
    DialClosed,
    DialRequest,
    Drain,
    Ended,
    FingerprintsRequest,
    HookData,
    HookNotice,
    HookRequest,
    HostException,
    Kill,
    LeafRequest,
    LimitAnswer,
    LimitRequest,
    Open,
    Pass,
    ReadLevel,
    Ready,
    RecordingAnswer,
    RecordingRequest,
    Records,
    Secrets,
    SessionFacts,
    SignatureRequest,
    TerminalOutput,
    decode_to_proxy,
    parts,
)
from proxy.settings.inspection import InspectorCount
from proxy.stream.broker import Broker
from proxy.stream.handover import Handover
from proxy.stream.hook_requests import HookRequests
from proxy.stream.host_exceptions import HostExceptions
from proxy.stream.inspected_origins import InspectedOrigins
from proxy.stream.inspected_session import InspectedSession, facts_of
from proxy.stream.inspector_process import memory_bytes, reap, start
from proxy.stream.lifecycle import Lifecycle
from proxy.stream.terminals import Terminals
from proxy.verdict import Decision

log = logging.getLogger(__name__)

COUNTED_PER_TICK = 200  # sessions whose totals are updated per call: 1 ms

ChildSink = Callable[[Flow, str, bytes], None]


class InspectorHandle:
    """One inspector, as the proxy sees it."""

    def __init__(self, pool: Inspectors, number: int) -> None:
        self._pool, self.number = pool, number
        self.sessions: dict[int, InspectedSession] = {}
        self.channel: Channel
        self.handover: Handover
        self.process: subprocess.Popen[bytes] | None = None  # None: it runs in the proxy's process
        self.shortfalls: list[str] | None = None  # None: it is not ready yet
        self.served = 0
        self._hook_requests = HookRequests(self._send)

    @property
    def pid(self) -> int:
        return os.getpid() if self.process is None else self.process.pid

    @property
    def memory_bytes(self) -> int:
        return memory_bytes(self.pid)

    def _send(self, message: msgspec.Struct) -> None:
        self.channel.send(message)

    def kill(self, session: InspectedSession) -> None:
        self._forget(session.number)
        self.channel.send(Kill(session.number))

    def receive(self, message: Any, descriptors: list[int]) -> None:
        """Handle a message from the inspector. None of them carries descriptors."""
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(message, Records):
            for record in message.records:
                if (session := self.sessions.get(record.session)) is not None:
                    self._pool.child(session.flow, record.kind, record.child)
        elif isinstance(message, Ready):
            self.shortfalls = message.shortfalls
            for shortfall in message.shortfalls:
                log.warning("inspector %d: %s", self.number, shortfall)
        elif isinstance(message, Secrets):
            self._pool.broker.key_logs.add(message.tenant, message.lines)
        elif (session := self.sessions.get(message.session)) is not None:
            self._handle_session_message(session, message)

    def _handle_session_message(self, session: InspectedSession, message: Any) -> None:
        if isinstance(message, SessionFacts):
            session.add_facts(message)
            self._pool.inspected_origins.update(session.flow)
            self._pool.decided(session.flow.tenant.name, message.decisions)
            if message.protocol is not None and self._pool.application is not None:
                self._pool.application.detected(session.flow)
        elif isinstance(message, LeafRequest):
            self.channel.send(self._pool.broker.leaf(session.flow.tenant.name, message))
        elif isinstance(message, DialRequest):
            self._dial(session, message)
        elif isinstance(message, DialClosed):
            session.dial_closed(message.request)
        elif isinstance(message, LimitRequest):
            self.channel.send(self._pool.count(session.flow, message))
        elif isinstance(message, HookRequest):
            self._ask(session, message)
        elif isinstance(message, HookData):
            self._hook_requests.add_data(session, message)
        elif isinstance(message, HookNotice):
            self._hook_requests.body_ended(message)
        elif isinstance(message, CertificateRequest | SignatureRequest):
            self._sign(session, message)
        elif isinstance(message, FingerprintsRequest):
            self._pool.broker.fingerprints(session.flow, message, self._send)
        elif isinstance(message, RecordingRequest):
            self._record(session, message)
        elif isinstance(message, TerminalOutput):
            self._pool.terminals.shown(message)
        elif isinstance(message, HostException):
            self._pool.pass_host(session.flow.tenant.name, message)
        elif isinstance(message, Ended):
            self._forget(message.session)
            session.ended(message)
            self._pool.note_idle()
        elif isinstance(message, Pass):
            del self.sessions[message.session]
            session.give_back()
            self._pool.note_idle()

    def _ask(self, session: InspectedSession, message: HookRequest) -> None:
        assert self._pool.application is not None
        self._hook_requests.ask(self._pool.application.admission, session, message)

    def _forget(self, number: int) -> None:
        self.sessions.pop(number, None)
        self._hook_requests.session_ended(number)
        self._pool.terminals.ended(number)

    def _dial(self, session: InspectedSession, message: DialRequest) -> None:
        def dialled(sock: socket.socket | None, why: str) -> None:
            if sock is None:
                self.channel.send(DialAnswer(message.request, error=why))
                return
            if not self.channel.send(DialAnswer(message.request), [sock.fileno()]):
                self.channel.send(DialAnswer(message.request, error="no descriptors are left"))
            if session.number in self.sessions:
                session.add_origin(sock, None if message.host is None else message.request)
            else:
                sock.close()

        self._pool.broker.dial(session.flow, message, dialled)

    def _sign(self, session: InspectedSession, message: CertificateRequest | SignatureRequest) -> None:
        flow, grants, broker = session.flow, session.grants, self._pool.broker.ssh
        application = self._pool.application
        is_asked = application is not None and application.hooks.has("ssh_auth")
        if isinstance(message, CertificateRequest):
            self.channel.send(broker.certificate(flow, grants, session.source, message, is_asked=is_asked))
        else:
            self.channel.send(broker.sign(flow, grants, message, is_asked=is_asked))

    def _record(self, session: InspectedSession, message: RecordingRequest) -> None:
        answer, descriptors = self._pool.broker.ssh.recording(session.flow.tenant.name, message)
        if not self.channel.send(answer, descriptors):
            self.channel.send(RecordingAnswer(message.request, error="no descriptors are left"))
        for descriptor in descriptors:
            os.close(descriptor)

    def lost(self) -> None:
        """Handle the end of the inspector, which ends its sessions."""
        sessions, self.sessions = list(self.sessions.values()), {}
        self._pool.lost(self, len(sessions))
        for session in sessions:
            self._pool.terminals.ended(session.number)
            session.died()


class Inspectors:
    """All inspectors. There are none before the first session that needs one."""

    def __init__(
        self,
        count: InspectorCount,
        poller: Poller,
        loop: asyncio.AbstractEventLoop,
        broker: Broker,
        child: ChildSink = lambda flow, kind, record: None,
    ) -> None:
        """`count`: `auto` is one per core, 0 means in this process. `child` gets the child records of flows."""
        self.broker, self.child = broker, child
        self.decided: Callable[[str, list[Decision]], None] = lambda tenant, decisions: None
        self.max_inspectors = len(os.sched_getaffinity(0)) if count == "auto" else count
        self.terminals = Terminals()
        self.handles: list[InspectorHandle] = []
        self.deaths = 0
        self._poller, self._loop = poller, loop
        self._inspector_numbers, self._session_numbers = itertools.count(1), itertools.count(1)
        self._exceptions = HostExceptions(self._broadcast)
        self.inspected_origins = InspectedOrigins()
        self._to_count: Iterator[InspectedSession] = iter(())
        self._local: Any = None  # the inspector in this process
        self._policies: Policies | None = None  # None: none were loaded yet
        self.application: Lifecycle | None = None  # its hooks are asked about inspected sessions
        broker.authorities.changed = self._configure_all
        self._is_closed = False
        self._idle: asyncio.Event | None = None

    def serve(self, application: Lifecycle) -> None:
        """Ask this application's hooks. Called before the first inspector starts."""
        self.application = application
        names = tuple(name for name in INSPECTION_HOOKS if application.hooks.has(name))
        self.broker.configuration = msgspec.structs.replace(self.broker.configuration, hooks=names)

    def level_of(self, flow: Flow) -> ReadLevel | None:
        """The level at which the flow is to be inspected, or None."""
        level = flow.wanted_level or flow.tenant.settings.level
        return level if level in ("tls", "http", "ssh") else None

    def hand_over(
        self, flow: Flow, level: ReadLevel, client: socket.socket, origin: socket.socket,
        finished: Callable[[CloseReason, bool], None], passed: Callable[[socket.socket], None],
    ) -> InspectedSession:  # fmt: skip
        """Hand the session to an inspector; see `InspectedSession` for the callbacks."""
        handle = self._least_loaded()
        number = next(self._session_numbers)
        session = InspectedSession(number, flow, client, origin, handle, finished, passed)
        handle.sessions[number] = session
        handle.served += 1
        known = flow_facts(flow, time.time()) if self.broker.configuration.policies is not None else {}
        handle.handover.add(session, Open(number, facts_of(flow, known), level))
        return session

    def set_policies(self, policies: Policies) -> None:
        """Judge new sessions, and new requests of open sessions, by these policies."""
        self._policies = policies
        carried = carry(policies, self.broker.configuration.tenants)
        self.broker.configuration = msgspec.structs.replace(self.broker.configuration, policies=carried)
        self._configure_all()

    def count(self, flow: Flow, message: LimitRequest) -> LimitAnswer:
        """Count a request of this flow, unless a limit is exceeded."""
        if self._policies is None:
            return LimitAnswer(message.request)
        return LimitAnswer(message.request, self._policies.exceeded(message.rules, FlowFacts(flow, time.time())))

    def renew_ssh(self, tenant: str) -> None:
        """Give new SSH sessions of this tenant its current keys. Raises ProxyError."""
        self.broker.renew_ssh(tenant)
        for handle in self.handles:
            self._configure(handle)

    def session_of(self, flow_id: str, tenants: Container[str]) -> tuple[int, Channel] | None:
        """The number of a live flow's session, and the channel to its inspector; None if the flow is not inspected."""
        for handle in self.handles:
            for number, session in handle.sessions.items():
                if session.flow.id == flow_id and session.flow.tenant.name in tenants:
                    return number, handle.channel
        return None

    def pass_host(self, tenant: str, found: HostException) -> None:
        """Pass sessions with this host uninspected for the next `pinned_s` seconds."""
        self._exceptions.add(tenant, found, self.broker.configuration.tenants[tenant].pinned_s, time.monotonic())

    def tick(self, now: float) -> None:
        """Update totals of live sessions, a slice per call, and forget learnt hosts that have expired."""
        self._exceptions.expire(now)
        self.broker.authorities.tick()
        counted = list(itertools.islice(self._to_count, COUNTED_PER_TICK))
        for session in counted:
            session.count()
        if len(counted) < COUNTED_PER_TICK:
            self._to_count = iter([session for handle in self.handles for session in handle.sessions.values()])
        if self._local is not None:
            self._local.tick()

    async def drain(self, limit_s: float) -> None:
        """Ask every session to end in order, and wait for that up to the limit."""
        self._broadcast(Drain())
        self._idle = asyncio.Event()
        self.note_idle()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), limit_s)

    def note_idle(self) -> None:
        """Wake `drain` if the last session has ended."""
        if self._idle is not None and not any(handle.sessions for handle in self.handles):
            self._idle.set()

    def close(self) -> None:
        """End all inspectors."""
        self._is_closed = True
        for handle in self.handles:
            handle.channel.close()
        for handle in self.handles:
            if handle.process is not None:
                reap(handle.process)
        self.handles.clear()
        if self._local is not None:
            self._local.close()
        self.broker.key_logs.close()

    def lost(self, handle: InspectorHandle, sessions: int) -> None:
        """Remove an inspector that has ended."""
        self.handles.remove(handle)
        if self._is_closed or handle.process is None:
            return
        self.deaths += 1
        status = reap(handle.process)
        log.error(
            "inspector %d (pid %d) has ended (%s), and %d sessions with it", handle.number, handle.pid, status, sessions
        )

    def _least_loaded(self) -> InspectorHandle:
        """The inspector with the fewest sessions. If all have some, another one is started, up to the limit."""
        found = min(self.handles, key=lambda handle: len(handle.sessions), default=None)
        if found is None or (found.sessions and len(self.handles) < self.max_inspectors):
            found = self._start()
        return found

    def _start(self) -> InspectorHandle:
        handle = InspectorHandle(self, next(self._inspector_numbers))
        if self.max_inspectors == 0:
            self._start_in_process(handle)
        else:
            self._start_process(handle)
        handle.handover = Handover(handle.channel, self._poller)
        self.handles.append(handle)
        self._configure(handle)
        for exception in self._exceptions:
            handle.channel.send(exception)
        return handle

    def _configure_all(self) -> None:
        """Send the configuration to all inspectors. They drop leaves of replaced authorities."""
        for handle in self.handles:
            self._configure(handle)

    def _configure(self, handle: InspectorHandle) -> None:
        for part in parts(self.broker.configuration):
            handle.channel.send(part)

    def _start_in_process(self, handle: InspectorHandle) -> None:
        from proxy.inspect.inspector import Inspector  # imported only if sessions are inspected in this process

        inspector = self._local = Inspector(self._poller)
        inspector.channel = LocalChannel(self._loop.call_soon, handle.receive)
        handle.channel = LocalChannel(self._loop.call_soon, inspector.receive)
        handle.shortfalls = ["inspectors: 0, so untrusted input is parsed in the proxy's own process"]

    def _start_process(self, handle: InspectorHandle) -> None:
        own_end, inspector_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with inspector_end:
            reads_ssh = any(rules.ssh is not None for rules in self.broker.configuration.tenants.values())
            handle.process = start(inspector_end, reads_ssh=reads_ssh, logs_keys=bool(self.broker.key_logs.paths))
        handle.channel = SocketChannel(own_end, self._poller, decode_to_proxy, handle.receive, handle.lost)

    def _broadcast(self, message: msgspec.Struct) -> None:
        for handle in self.handles:
            handle.channel.send(message)
