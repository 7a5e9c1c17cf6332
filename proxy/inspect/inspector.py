"""An inspector: receives sessions over its channel and reads them; asks the proxy for what it may not do itself."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from proxy.flow.timers import Wheel
from proxy.inspect.hook_arguments import encode_argument
from proxy.inspect.key_pipe import KeyPipe
from proxy.inspect.opening import Opening
from proxy.inspect.session import Session
from proxy.inspect.sockets import Turn
from proxy.inspect.tls import TenantTLS
from proxy.policy.carried import READ_PHASES, FactsCache, SessionJudge
from proxy.policy.phases import Phase
from proxy.poller import Poller
from proxy.session.channel import Channel
from proxy.session.facts import FlowFacts
from proxy.session.messages import (
    PART_BYTES,
    CertificateAnswer,
    Configure,
    DialAnswer,
    Drain,
    EndChannel,
    Ended,
    FingerprintsAnswer,
    HookAnswer,
    HookData,
    HookNotice,
    HookRequest,
    HostException,
    Kill,
    LeafAnswer,
    LimitAnswer,
    Open,
    Part,
    Record,
    RecordingAnswer,
    Records,
    Secrets,
    SignatureAnswer,
    TenantRules,
    WatchChannel,
    decode_configuration,
)
from proxy.verdict import Decision, Failure, Ruling

log = logging.getLogger(__name__)

TICK_S = 0.25
RECORDS_S = 0.02  # how long request records are batched: a message for each costs 25 us on either side
RECORDS_BYTES = 64 << 10
POLICY_FAILED = "the policy failed"
FAILED = {
    phase: Ruling(
        Failure(action="deny", reason=POLICY_FAILED), [Decision(phase, "policy", "deny", reason=POLICY_FAILED)]
    )
    for phase in READ_PHASES
}
ANSWERS = (
    LeafAnswer, DialAnswer, HookAnswer, LimitAnswer, CertificateAnswer, SignatureAnswer, FingerprintsAnswer,
    RecordingAnswer,
)  # fmt: skip


class Inspector:
    """One inspector, in a process of its own or in the proxy's."""

    def __init__(self, poller: Poller) -> None:
        """`channel` must be set before the first message arrives."""
        self.poller, self.turn = poller, Turn()
        self.wheel: Wheel[Session] = Wheel(TICK_S)
        self.channel: Channel
        self.sessions: dict[int, Session] = {}
        self._configuration = Configure({})
        self._policies: SessionJudge | None = None
        self._tls: dict[str, TenantTLS] = {}
        self._key_pipes: dict[str, KeyPipe] = {}
        self._exceptions: dict[str, dict[tuple[str, str], str]] = {}
        self._requests = itertools.count(1)
        self._pending: dict[int, Callable[[Any, list[int]], None]] = {}
        self._is_draining = False
        self._parts = bytearray()
        self._records: list[Record] = []  # not yet sent to the proxy
        self._record_bytes = 0

    def receive(self, message: Any, descriptors: list[int]) -> None:
        """Handle a message from the proxy. Takes ownership of `descriptors`."""
        try:
            self._take(message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def tick(self) -> None:
        """Run the timers that are due; call it every `TICK_S`."""
        now = self.now()
        for session in self.wheel.expired(now):
            self._guarded(session, session.expired, now)

    def close(self) -> None:
        """End every session, since the proxy is gone."""
        for session in list(self.sessions.values()):
            session.killed()
        for pipe in self._key_pipes.values():
            pipe.close()

    # For sessions.

    def now(self) -> float:
        return time.monotonic()

    def tls_of(self, tenant: str) -> TenantTLS:
        """The tenant's TLS contexts. KeyError: the proxy has not configured this tenant."""
        found = self._tls.get(tenant)
        if found is None:
            rules = self._configuration.tenants[tenant]
            found = self._tls[tenant] = TenantTLS(rules, self._key_log(tenant) if rules.logs_keys else None)
        return found

    def _key_log(self, tenant: str) -> str | None:
        """The path to which OpenSSL writes the tenant's secrets. None: the sandbox prevents it (reported at start)."""
        if tenant not in self._key_pipes:
            self._key_pipes[tenant] = KeyPipe(self.poller, lambda lines: self.send(Secrets(tenant, lines)))
        pipe = self._key_pipes[tenant]
        return pipe.name if pipe.can_be_opened else None

    def rules_of(self, tenant: str) -> TenantRules:
        """The tenant's inspection settings. KeyError: see `tls_of`."""
        return self._configuration.tenants[tenant]

    def send(self, message: msgspec.Struct) -> None:
        if self._records:  # before this message, which may end their sessions
            self._send_records()
        self.channel.send(message)

    def record(self, session: int, child: msgspec.Struct) -> None:
        record = Record(session, msgspec.json.encode(child), type(child).__name__)
        size = len(record.child)
        if self._record_bytes + size > RECORDS_BYTES:
            self._send_records()
        if not self._records:
            self.poller.later(RECORDS_S, self._send_records)
        self._records.append(record)
        self._record_bytes += size

    def _send_records(self) -> None:
        if self._records:
            records, self._records, self._record_bytes = self._records, [], 0
            self.channel.send(Records(records))

    def ask_proxy(self, make_request: Callable[[int], msgspec.Struct], then: Callable[[Any, list[int]], None]) -> None:
        request = next(self._requests)
        self._pending[request] = then
        self.send(make_request(request))

    def judge(
        self, phase: Phase, flow: FlowFacts, facts: Mapping[str, Any], cache: FactsCache | None = None
    ) -> Ruling | None:
        """The verdict of the policies; an error in a policy denies. `cache`: see `SessionJudge.judge`."""
        if self._policies is None:
            return None
        try:
            return self._policies.judge(flow.tenant, phase, flow.policy_facts, facts, time.time(), cache)
        except Exception:
            log.exception("the policy failed on flow %s", flow.id)
            return FAILED[phase]

    def has_hook(self, hook: str) -> bool:
        return hook in self._configuration.hooks

    def ask_hook(self, session: int, hook: str, argument: Any, then: Callable[[Any], None]) -> None:
        encoded = encode_argument(argument)
        data: bytes = encoded.get("data", b"")
        replacement = bytearray()

        def make_request(request: int) -> HookRequest:
            if len(data) > PART_BYTES:  # too large for one message
                encoded["data"] = b""
                for start in range(0, len(data), PART_BYTES):
                    self.channel.send(HookData(request, session, data[start : start + PART_BYTES]))
            return HookRequest(request, session, hook, encoded)

        def answered(answer: HookAnswer, _: list[int]) -> None:
            verdict = answer.verdict
            if answer.data is not None:
                replacement.extend(answer.data)
            if answer.is_more:
                self._pending[answer.request] = answered
            elif verdict is not None:
                then(Failure(action="deny", reason=verdict.reason) if answer.is_failure else verdict)
            else:
                then(None if answer.data is None else bytes(replacement))

        self.ask_proxy(make_request, answered)

    def notify_hook(self, session: int, hook: str, argument: Any) -> None:
        self.channel.send(HookNotice(session, hook, encode_argument(argument)))

    def forget(self, session: Session) -> None:
        self.sessions.pop(session.number, None)

    def _take(self, message: Any, descriptors: list[int]) -> None:
        if isinstance(message, Open):
            self._open(message, descriptors)
        elif isinstance(message, ANSWERS):
            then = self._pending.pop(message.request, None)
            if then is not None:
                with self.turn:
                    then(message, descriptors)
        elif isinstance(message, WatchChannel | EndChannel):
            if (session := self.sessions.get(message.session)) is not None and session.channels is not None:
                session.channels.take(message)
        elif isinstance(message, Kill):
            if (session := self.sessions.get(message.session)) is not None:
                session.killed()
        elif isinstance(message, HostException):
            self._update_exceptions(message)
        elif isinstance(message, Drain):
            self._is_draining = True
            for session in list(self.sessions.values()):
                self._guarded(session, session.drain)
        elif isinstance(message, Part):
            self._parts += message.data
            if message.is_last:
                configuration, self._parts = decode_configuration(bytes(self._parts)), bytearray()
                self._configure(configuration)

    def _configure(self, message: Configure) -> None:
        """Take a new configuration for new sessions; open ones keep theirs. If it fails, new ones end at once."""
        before, self._configuration = self._configuration.policies, Configure({})
        self._tls.clear()
        if message.policies != before:
            self._policies = None
            self._policies = None if message.policies is None else SessionJudge(message.policies)
        self._configuration = message

    def _update_exceptions(self, message: HostException) -> None:
        found = self._exceptions.setdefault(message.tenant, {})
        if message.is_over:
            found.pop((message.host, message.client), None)
        else:
            found[message.host, message.client] = message.why

    def _open(self, message: Open, descriptors: list[int]) -> None:
        if len(descriptors) < 2:  # this process is out of descriptors
            self.send(Ended(message.session, "proxy_error", "proxy", "both"))
            return
        flow = message.flow
        facts = {sys.intern(name): value for name, value in flow.policy_facts.items()}  # saves 1.5 KiB a session
        flow = msgspec.structs.replace(flow, policy_facts=facts)
        family = socket.AF_INET6 if ":" in flow.dst else socket.AF_INET
        client, origin = (socket.socket(family, socket.SOCK_STREAM, 0, each) for each in descriptors[:2])
        del descriptors[:2]
        client.setblocking(False)
        origin.setblocking(False)
        session = Session(self, message.session, flow, message.level, client, origin)
        self.sessions[message.session] = session
        self._guarded(session, self._begin, session)

    def _begin(self, session: Session) -> None:
        tenant, configuration = session.flow.tenant, self._configuration
        opening = Opening(
            session,
            self.tls_of(tenant),
            self._exceptions.get(tenant, {}),
            sniff_s=configuration.sniff_s,
            handshake_s=configuration.handshake_s,
        )
        opening.start()

    def _guarded(self, session: Session, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function`; an exception ends this session only."""
        try:
            with self.turn:
                function(*arguments)
        except Exception as error:
            log.exception("unexpected error in %r", session)
            session.crashed(error)
