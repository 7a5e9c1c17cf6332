"""Questions from an inspector to the application's hooks. Arguments and answers may span several messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.flow.context import FlowContext
from proxy.hooks.asked import Bodies, argument
from proxy.session.messages import PART_BYTES, HookAnswer, HookData, HookTold, HookWanted
from proxy.stream.admission import Admission
from proxy.stream.handed import Handed
from proxy.verdict import ALLOW, Failure, Verdict

log = logging.getLogger(__name__)

MOST_BYTES = 80 << 20  # per question: a WebSocket message may be 64 MiB


class Asking:
    """One inspector's pending questions, and the bodies in its sessions that hooks are reading."""

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        """`send` sends answers to the inspector."""
        self._send = send
        self._pieces: dict[int, bytearray] = {}  # by question
        self._bodies: dict[int, Bodies] = {}  # by session

    def ask(self, admission: Admission, handed: Handed, wanted: HookWanted) -> None:
        """Ask the application, and send its answer."""
        told = wanted.told
        if (data := self._pieces.pop(wanted.request, None)) is not None:
            told["data"] = bytes(data)

        def shown(flow: FlowContext[Any]) -> Any:
            if wanted.hook == "http_body":
                return self._bodies.setdefault(handed.number, Bodies()).part(told, flow)
            return argument(wanted.hook, told, flow)

        def answered(said: bytes | Verdict) -> None:
            if isinstance(said, bytes):
                self._send_bytes(wanted.request, said)
                return
            if wanted.hook == "ssh_auth" and not said.is_denial:
                handed.grants.approved.add(str(told["username"]))
            verdict = None if said is ALLOW else said
            self._send(HookAnswer(wanted.request, verdict, is_failure=isinstance(said, Failure)))

        admission.ask_about(handed.flow, wanted.hook, shown, answered)

    def collect(self, handed: Handed, message: HookData) -> None:
        """Keep a part of the argument of a question that follows."""
        pieces = self._pieces.setdefault(message.request, bytearray())
        pieces += message.data
        if len(pieces) > MOST_BYTES:
            log.error("an inspector asks about more than %d bytes at once (%r)", MOST_BYTES, handed.flow)
            del self._pieces[message.request]
            handed.abort("proxy_error")

    def told(self, message: HookTold) -> None:
        """Forget a body that has ended, which a hook was reading."""
        if (bodies := self._bodies.get(message.session)) is not None:
            bodies.forget(message.told)

    def forget(self, session: int) -> None:
        """Forget a session that has ended."""
        self._bodies.pop(session, None)

    def _send_bytes(self, request: int, data: bytes) -> None:
        for start in range(0, max(len(data), 1), PART_BYTES):
            piece, is_more = data[start : start + PART_BYTES], start + PART_BYTES < len(data)
            self._send(HookAnswer(request, data=piece, is_more=is_more))
