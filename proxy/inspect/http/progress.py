"""The state of an exchange: seen by hooks, used by timers, and recorded at the end."""

from __future__ import annotations

from proxy.flow.record import Verdict as Outcome
from proxy.inspect.http.body import BodyReader
from proxy.inspect.http.faults import By, Fault
from proxy.inspect.http.messages import RequestHead, ResponseHead, Version
from proxy.inspect.http.sides import Requester, Responder
from proxy.inspect.http.websocket import WebSocket
from proxy.verdict import Decision, HeaderChange, HttpEffects

OPEN_RECORD_AFTER_S = 1.0


class Progress:
    """The state of an exchange. Times are seconds on the session's clock, sizes are bytes of bodies."""

    __slots__ = (
        "_switched",
        "client_ended",
        "decisions",
        "detail",
        "effects",
        "ended_first",
        "fault",
        "fault_by",
        "first_byte",
        "is_abandoned",
        "is_client_full",
        "is_complete",
        "is_done",
        "is_origin_full",
        "is_received",
        "is_retried",
        "is_waiting",
        "judges_response",
        "last_active",
        "number",
        "origin_address",
        "origin_ended",
        "origin_version",
        "outcome",
        "pace_sample",
        "reads",
        "record_at",
        "request",
        "request_bytes",
        "request_reader",
        "request_sent",
        "requester",
        "responder",
        "response",
        "response_bytes",
        "response_changes",
        "response_reader",
        "started",
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
        self.request_sent: float | None = None  # when the request was complete
        self.record_at = self.started + OPEN_RECORD_AFTER_S  # when to record it while it is open
        self.last_active = self.started  # when data last arrived
        self.request_bytes = self.response_bytes = 0
        self.reads: set[str] = set()  # bodies to show to a hook: `request`, `response`
        self.request_reader: BodyReader | None = None
        self.response_reader: BodyReader | None = None
        self.is_client_full = self.is_origin_full = False
        self.pace_sample = (self.started, 0, 0)  # the last check of the client's pace (`timing`): time and byte counts
        self.is_waiting = False  # for a connection to an origin, or for a hook's answer
        self.is_received = False  # the whole response has arrived, though a hook may still hold it
        self.client_ended = self.origin_ended = self.is_done = False
        self.is_complete = False  # all that remains is queued for the client
        self.is_abandoned = False  # by its client: all that remains is queued for the origin
        self.origin_address: tuple[str, int] | None = None  # set by policy in place of the session's own
        self.effects: HttpEffects | None = None  # of the last verdict
        self.response_changes: tuple[HeaderChange, ...] = ()  # by policies and hooks together
        self.judges_response = False
        self.decisions: list[Decision] = []
        self.outcome: Outcome = "allowed"
        self.fault: Fault | None = None
        self.fault_by: By | None = None
        self.detail: str | None = None
        self.websocket: WebSocket | None = None
        self.origin_version: Version | None = None
        self.ended_first: By | None = None  # the side that ended an upgraded connection first
        self.is_retried = False  # it was refused unprocessed once, and sent again
        self._switched = False

    @property
    def is_switched(self) -> bool:
        """Whether the connection was upgraded: its bytes are no longer a body."""
        return self._switched
