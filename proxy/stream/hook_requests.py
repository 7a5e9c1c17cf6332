"""Questions from an inspector to the application's hooks. Arguments and answers may span several messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.flow.context import FlowContext
from proxy.hooks.arguments import Bodies, argument
from proxy.session.messages import PART_BYTES, HookAnswer, HookData, HookNotice, HookRequest
from proxy.stream.admission import Admission
from proxy.stream.inspected_session import InspectedSession
from proxy.verdict import ALLOW, Failure, Verdict

log = logging.getLogger(__name__)

MAX_DATA = 80 << 20  # per question: a WebSocket message may be 64 MiB


class HookRequests:
    """One inspector's pending questions, and the bodies in its sessions that hooks are reading."""

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        """`send` sends answers to the inspector."""
        self._send = send
        self._data: dict[int, bytearray] = {}  # by question
        self._bodies: dict[int, Bodies] = {}  # by session

    def ask(self, admission: Admission, session: InspectedSession, message: HookRequest) -> None:
        """Ask the application, and send its answer."""
        encoded = message.argument
        if (data := self._data.pop(message.request, None)) is not None:
            encoded["data"] = bytes(data)

        def make_argument(flow: FlowContext[Any]) -> Any:
            if message.hook == "http_body":
                return self._bodies.setdefault(session.number, Bodies()).part(encoded, flow)
            return argument(message.hook, encoded, flow)

        def send_answer(answer: bytes | Verdict) -> None:
            if isinstance(answer, bytes):
                self._send_bytes(message.request, answer)
                return
            if message.hook == "ssh_auth" and not answer.is_denial:
                session.grants.approved.add(str(encoded["username"]))
            verdict = None if answer is ALLOW else answer
            self._send(HookAnswer(message.request, verdict, is_failure=isinstance(answer, Failure)))

        admission.ask_inspection_hook(session.flow, message.hook, make_argument, send_answer)

    def add_data(self, session: InspectedSession, message: HookData) -> None:
        """Keep a part of the argument of a question that follows."""
        data_so_far = self._data.setdefault(message.request, bytearray())
        data_so_far += message.data
        if len(data_so_far) > MAX_DATA:
            log.error("an inspector sent more than %d bytes for one hook (%r)", MAX_DATA, session.flow)
            del self._data[message.request]
            session.abort("proxy_error")

    def body_ended(self, message: HookNotice) -> None:
        """Forget a body that has ended, which a hook was reading."""
        if (bodies := self._bodies.get(message.session)) is not None:
            bodies.forget(message.argument)

    def session_ended(self, session: int) -> None:
        """Forget a session that has ended."""
        self._bodies.pop(session, None)

    def _send_bytes(self, request: int, data: bytes) -> None:
        for start in range(0, max(len(data), 1), PART_BYTES):
            piece, is_more = data[start : start + PART_BYTES], start + PART_BYTES < len(data)
            self._send(HookAnswer(request, data=piece, is_more=is_more))
