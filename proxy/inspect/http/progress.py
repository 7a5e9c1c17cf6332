"""What is known of one request and its response: what hooks look at, what is timed, and what is recorded at the end."""

from __future__ import annotations

from proxy.flow.record import Verdict as Outcome
from proxy.inspect.http.body import BodyReader
from proxy.inspect.http.faults import By, Fault
from proxy.inspect.http.messages import RequestHead, ResponseHead, Version
from proxy.inspect.http.sides import Requester, Responder
from proxy.inspect.http.websocket import WebSocket
from proxy.verdict import Decision, HeaderChange, HttpEffects

TOLD_AFTER_S = 1.0


class Progress:
    """How far an exchange has come. Times are seconds on the session's clock, sizes bytes of bodies."""

    __slots__ = (
        "_switched",
        "checked",
        "client_ended",
        "decisions",
        "detail",
        "effects",
        "ended_first",
        "fault",
        "fault_by",
        "first_byte",
        "is_client_full",
        "is_complete",
        "is_done",
        "is_origin_full",
        "is_received",
        "is_repeated",
        "is_waiting",
        "judges_response",
        "moved",
        "number",
        "origin_address",
        "origin_ended",
        "origin_version",
        "outcome",
        "reads",
        "request",
        "request_bytes",
        "request_reader",
        "requester",
        "responder",
        "response",
        "response_bytes",
        "response_changes",
        "response_reader",
        "sent",
        "started",
        "tell_at",
        "websocket",
    )

    def __init__(self, responder: Responder, request: RequestHead, number: int, now: float) -> None:
        self.responder = responder
        self.requester: Requester | None = None
        self.request = request
        self.number = number
        self.started = now
        self.response: ResponseHead | None = None
        self.first_byte: float | None = None
        self.sent: float | None = None  # when the request was complete
        self.tell_at = self.started + TOLD_AFTER_S  # when it is recorded though it goes on
        self.moved = self.started  # when anything last came
        self.request_bytes = self.response_bytes = 0
        self.reads: set[str] = set()  # the bodies that a hook is to be shown: `request`, `response`
        self.request_reader: BodyReader | None = None
        self.response_reader: BodyReader | None = None
        self.is_client_full = self.is_origin_full = False
        self.checked = (self.started, 0, 0)  # when the client's pace was looked at last: `timing`
        self.is_waiting = False  # for an origin that can take it, or for what a hook says
        self.is_received = False  # the origin has sent all of its response, which a hook may not have let pass
        self.client_ended = self.origin_ended = self.is_done = False
        self.is_complete = False  # nothing is left but what the client has to take
        self.origin_address: tuple[str, int] | None = None  # where policy sends it instead
        self.effects: HttpEffects | None = None  # what was said last
        self.response_changes: tuple[HeaderChange, ...] = ()  # by everybody who was asked
        self.judges_response = False
        self.decisions: list[Decision] = []
        self.outcome: Outcome = "allowed"
        self.fault: Fault | None = None
        self.fault_by: By | None = None
        self.detail: str | None = None
        self.websocket: WebSocket | None = None
        self.origin_version: Version | None = None
        self.ended_first: By | None = None  # of a connection that was upgraded
        self.is_repeated = False  # an origin has refused it unread, and another connection was asked
        self._switched = False

    @property
    def is_switched(self) -> bool:
        """Whether the connection has become something else: what passes is no body any more."""
        return self._switched
