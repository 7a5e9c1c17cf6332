"""An SSH session in an inspector: hands its sockets to the bridge, and passes on the bridge's requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from proxy.errors import ProxyError
from proxy.flow.ssh import ChannelRecord
from proxy.inspect.session import Session
from proxy.inspect.ssh.terminal import Terminal
from proxy.inspect.ssh.watching import OpenChannels
from proxy.inspect.stream import Side
from proxy.session.facts import FlowFacts
from proxy.session.messages import (
    CertificateAnswer,
    CertificateRequest,
    FingerprintsAnswer,
    FingerprintsRequest,
    RecordingAnswer,
    RecordingRequest,
    SessionFacts,
    SignatureAnswer,
    SignatureRequest,
)
from proxy.session.ssh import SSHRules
from proxy.verdict import Decision, Ruling

if TYPE_CHECKING:
    from proxy.inspect.ssh.bridge import Bridge

log = logging.getLogger(__name__)

DRAINED = "the proxy is about to stop"


class SSHSession:
    """An `SSHView`, and the stage of its session until the end."""

    def __init__(self, session: Session, rules: SSHRules) -> None:
        self._session, self.rules = session, rules
        self._task: asyncio.Task[None] | None = None
        self._bridge: Bridge | None = None
        self._channels = OpenChannels(session.number, session.inspector.send, self._later)

    def start(self) -> None:
        """Take over both sockets."""
        session = self._session
        session.stage, session.channels = self, self._channels
        session.arm(None)
        session.inspector.send(SessionFacts(session.number, "ssh", "ssh", None, session.decisions))
        session.decisions = []
        self._task = asyncio.get_running_loop().create_task(self._run())

    def expired(self) -> None:
        """Never called: the bridge has its own timers."""

    def drain(self) -> None:
        if self._bridge is not None:
            self._bridge.drain(DRAINED)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    @property
    def flow(self) -> FlowFacts:
        return self._session.flow

    def judge(self, facts: Mapping[str, Any]) -> Ruling | None:
        return self._session.judge("ssh", facts)

    def has(self, hook: str) -> bool:
        return self._session.has(hook)

    async def ask(self, hook: str, argument: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)

        self._session.ask(hook, argument, answered)
        return await answer

    async def certificate(self, public_key: str, user: str, identity: str) -> str:
        number = self._session.number
        reply, _ = await self._ask_proxy(
            lambda request: CertificateRequest(request, number, public_key, user, identity)
        )
        assert isinstance(reply, CertificateAnswer)
        if reply.certificate is None:
            raise ProxyError(reply.error or "there is no certificate")
        return reply.certificate

    async def sign(self, key: Literal["host", "onward"], data: bytes, algorithm: str) -> bytes:
        number, rules = self._session.number, self.rules
        public = rules.host_key if key == "host" else rules.onward_key or ""
        reply, _ = await self._ask_proxy(
            lambda request: SignatureRequest(request, number, key, public, data, algorithm)
        )
        assert isinstance(reply, SignatureAnswer)
        if reply.error is not None:
            raise ProxyError(reply.error)
        return reply.signature

    async def fingerprints(self) -> list[bytes]:
        number = self._session.number
        reply, _ = await self._ask_proxy(lambda request: FingerprintsRequest(request, number))
        assert isinstance(reply, FingerprintsAnswer)
        return reply.digests

    async def recording(self, name: str) -> int:
        number = self._session.number
        reply, descriptor = await self._ask_proxy(lambda request: RecordingRequest(request, number, name))
        assert isinstance(reply, RecordingAnswer)
        if descriptor is None:
            raise ProxyError(reply.error or "the recording could not be created")
        return descriptor

    def opened(self, channel_id: str, end: Callable[[str], None], terminal: Terminal | None) -> None:
        self._channels.opened(channel_id, end, terminal)

    def record(self, child: msgspec.Struct) -> None:
        if isinstance(child, ChannelRecord) and not child.is_open:
            self._channels.closed(child.channel_id)
        if not self._session.is_over:
            self._session.record(child)

    @staticmethod
    def _later(seconds: float, function: Callable[[], None]) -> object:
        return asyncio.get_running_loop().call_later(seconds, function)

    async def _ask_proxy(self, make_request: Any) -> tuple[Any, int | None]:
        answer: asyncio.Future[tuple[Any, int | None]] = asyncio.get_running_loop().create_future()

        def answered(reply: Any, descriptors: list[int]) -> None:
            if not answer.done():
                answer.set_result((reply, descriptors.pop() if descriptors else None))

        self._session.inspector.ask_proxy(make_request, answered)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and (descriptor := answer.result()[1]) is not None:
                os.close(descriptor)
            raise

    async def _run(self) -> None:
        from proxy.inspect.ssh.bridge import Bridge  # asyncssh takes 0.2 s to import

        session = self._session
        try:
            sockets = session.take_socket(Side.CLIENT), session.take_socket(Side.ORIGIN)
            self._bridge = Bridge(self)
            outcome = await self._bridge.run(*sockets)
        except asyncio.CancelledError:
            return  # the session has ended
        except Exception as error:
            log.exception("unexpected error in %r", session)
            with contextlib.suppress(Exception):
                self._task = None
                session.crashed(error)
            return
        self._task = None
        if outcome.detail is not None:
            session.decisions = [*session.decisions, Decision("ssh", "session", "end", reason=outcome.detail)]
        session.end(outcome.reason, outcome.by, "both" if outcome.reason.endswith("_reset") else "")
