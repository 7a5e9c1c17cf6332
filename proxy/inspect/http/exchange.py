"""One request and its response, from the client's side to the origin's and back: judged, sent on, watched, recorded."""

from __future__ import annotations

from typing import Protocol

from proxy.inspect.http import pages, rules
from proxy.inspect.http.faults import By, Fault, told
from proxy.inspect.http.limits import Identity, Limits
from proxy.inspect.http.messages import Headers, RequestHead, ResponseHead
from proxy.inspect.http.progress import Progress
from proxy.inspect.http.sides import Requester, Responder
from proxy.inspect.http.websocket import WebSocket, is_websocket
from proxy.inspect.stream import SessionView
from proxy.verdict import Verdict


class Context(Protocol):
    """What exchanges know of their conversation."""

    session: SessionView
    identity: Identity
    limits: Limits

    def next_number(self) -> int:
        """The number of a new request, from 1."""
        ...

    def sign(self, head: RequestHead | ResponseHead) -> None:
        """Add the proxy to its Via."""
        ...

    def is_loop(self, head: RequestHead) -> bool:
        """Whether the request has been here too often."""
        ...

    def take(self, exchange: Exchange) -> None:
        """Find an origin for it: `Exchange.taken`, `Exchange.wait` first, or `Exchange.origin_failed`."""
        ...

    def finished(self, exchange: Exchange) -> None:
        """Record it."""
        ...

    def settle(self) -> None:
        """Send what was written since an answer came."""
        ...


class Exchange(Progress):
    """What became of one request: also what is told of it to the hooks `http_request` and `http_response`."""

    __slots__ = (
        "_early",
        "_early_trailers",
        "_held",
        "_held_trailers",
        "_is_waiting",
        "_responded",
        "context",
    )

    def __init__(self, context: Context, responder: Responder, request: RequestHead) -> None:
        super().__init__(responder, request, context.next_number(), context.session.now())
        self.context = context
        self._early: list[bytes] = []  # of the request's body, while it is not known where it goes
        self._early_trailers: Headers | None = None
        self._is_waiting = False
        self._held: list[bytes] = []  # of the response's, while a hook looks at the head
        self._held_trailers: Headers | None = None
        self._responded = False  # the head is with the client

    # The request, on its way to the origin.

    def begin(self, *, is_complete: bool) -> None:
        """Decide about the request and send it on; `is_complete`: it has no body."""
        self.client_ended = is_complete
        if is_complete:
            self.sent = self.started
        context = self.context
        if context.is_loop(self.request):
            self.refuse(Fault.LOOP, "the request has passed this proxy before", by="proxy")
            return
        if not self._judge():
            return
        if context.session.has("http_request"):
            self.wait()
            context.session.ask("http_request", self, self._asked)
        else:
            self._go()

    def _judge(self) -> bool:
        """Whether policy lets it pass; its effects are there afterwards."""
        session = self.context.session
        ruling = session.judge("http", rules.Facts(self.request, self.response, session.client.tls))
        if ruling is None:
            return True
        self.decisions += ruling.decisions
        return self._obey(ruling.verdict)

    def _asked(self, answer: str | Verdict | None) -> None:
        if self.is_done:
            return
        if isinstance(answer, str):
            self.refuse(Fault.DENIED, answer, by="proxy")
        elif answer is None or self._obey(answer):
            self._go()
        self.context.settle()

    def _obey(self, verdict: Verdict) -> bool:
        """Apply what was said; whether the exchange goes on."""
        effects = verdict.http
        if effects is not None:
            self.effects = effects
            self.response_changes += effects.response_headers
            self.judges_response = self.judges_response or effects.judge_response
        if effects is not None and effects.location is not None:
            self.outcome = "redirected"
            self._answer(*pages.redirect(effects))
            return False
        if verdict.is_denial:
            self.refuse(Fault.DENIED, verdict.reason or "denied by policy", by="proxy")
            return False
        if effects is not None and effects.request_headers and self.response is None:
            self.request.headers = rules.changed(self.request.headers, effects.request_headers)
        if verdict.origin is not None and self.requester is None:
            self.origin_address = verdict.origin
            self.outcome = "redirected"
        return True

    def _go(self) -> None:
        if self.request_filter is not None:
            self.request.length = None  # a filter may make the body longer or shorter
        self.context.sign(self.request)
        self.context.take(self)

    def taken(self, requester: Requester) -> None:
        """An origin has the request's head; what came of the body follows it."""
        self.requester = requester
        if self._is_waiting:
            self._is_waiting = False
            self.responder.resume()
        early, self._early = self._early, []
        for data in early:
            if self.request_filter is None or (data := self.request_filter(data)):
                requester.data(data)
        if self._early_trailers is not None:
            self._end_request(self._early_trailers)

    def wait(self) -> None:
        """No origin can take it yet: the client is to send no more."""
        self._is_waiting = True
        self.responder.pause()

    def repeat(self) -> None:
        """The origin has refused the request unread: it may be sent again, once."""
        self.is_repeated = True
        self.requester = None

    def request_data(self, data: bytes) -> None:
        """A part of the request's body, or bytes of what the connection was upgraded to."""
        if self.is_done:
            return
        self.request_bytes += len(data)
        self.moved = self.context.session.now()
        if self.websocket is not None:
            self.websocket.received(data, from_client=True)
            return
        if self.requester is None:
            if self.fault is None:
                self._early.append(data)
        elif self.request_filter is None:
            self.requester.data(data)
        elif changed := self.request_filter(data):
            self.requester.data(changed)

    def request_ended(self, trailers: Headers) -> None:
        """The client has sent all of its request, or closed its half of the upgraded connection."""
        if self.client_ended:
            return
        self.client_ended = True
        if self._switched and not self.origin_ended:
            self.ended_first = "client"
        self.sent = self.moved = self.context.session.now()
        if self.requester is None:
            self._early_trailers = trailers
        else:
            self._end_request(trailers)
        self._settle()

    def _end_request(self, trailers: Headers) -> None:
        assert self.requester is not None
        if self.request_filter is not None and (rest := self.request_filter(b"")):
            self.requester.data(rest)
        self.requester.end(trailers)

    # The response, on its way to the client.

    def informed(self, head: ResponseHead) -> None:
        """The origin has sent an interim response."""
        self.moved = self.context.session.now()
        self.responder.inform(head)

    def responded(self, head: ResponseHead) -> None:
        """The origin has answered."""
        self.response = head
        self.origin_version = head.version
        self.first_byte = self.moved = self.context.session.now()
        if self.judges_response and not self._judge():
            return
        session = self.context.session
        if session.has("http_response"):
            if self.requester is not None:
                self.requester.pause()
            session.ask("http_response", self, self._response_asked)
        else:
            self._respond(head)

    def _response_asked(self, answer: str | Verdict | None) -> None:
        if self.is_done or self.fault is not None:
            return
        if isinstance(answer, str):
            self.refuse(Fault.DENIED, answer, by="proxy")
        elif (answer is None or self._obey(answer)) and self.response is not None:
            self._respond(self.response)
            self._release()
        self.context.settle()

    def _respond(self, head: ResponseHead) -> None:
        self.context.sign(head)
        self._responded = True
        if self.response_changes:
            head.headers = rules.changed(head.headers, self.response_changes)
        if head.status == 101 or (self.request.method == b"CONNECT" and 200 <= head.status < 300):
            self._switched = True
            self.client_ended = False
            if is_websocket(self.request):
                self.websocket = WebSocket(self, self.request, head, self.context.session, self.context.limits)
        elif self.response_filter is not None:
            head.length = None
        self.responder.respond(head)

    def _release(self) -> None:
        """Send what has come while a hook was asked."""
        if self.requester is not None:
            self.requester.resume()
        held, self._held = self._held, []
        for data in held:
            self._pass_response(data)
        if self._held_trailers is not None:
            self.response_ended(self._held_trailers)

    def response_data(self, data: bytes) -> None:
        """A part of the response's body, or bytes of what the connection was upgraded to."""
        if self.is_done or self.fault is not None:
            return
        self.response_bytes += len(data)
        self.moved = self.context.session.now()
        if self._responded:
            self._pass_response(data)
        else:
            self._held.append(data)

    def _pass_response(self, data: bytes) -> None:
        if self.websocket is not None:
            self.websocket.received(data, from_client=False)
        elif self.response_filter is None:
            self.responder.data(data)
        elif changed := self.response_filter(data):
            self.responder.data(changed)

    def response_ended(self, trailers: Headers) -> None:
        """The origin has sent all of its response, or closed its half of the upgraded connection."""
        if self.origin_ended or self.fault is not None:
            return
        if not self._responded:
            self._held_trailers = trailers
            return
        self.origin_ended = True
        if not self._switched and self.request.is_tunnel:
            self.client_ended = True  # what was to follow a switch does not follow
        elif self._switched and not self.client_ended:
            self.ended_first = "origin"
        self.moved = self.context.session.now()
        if self.response_filter is not None and (rest := self.response_filter(b"")):
            self.responder.data(rest)
        self.responder.end(trailers)
        self._settle()

    # What goes wrong.

    def refuse(self, fault: Fault, detail: str, *, by: By | None = None) -> None:
        """Tell the client why not, if its response has not begun; otherwise break it off."""
        if self.is_done or self.fault is not None:
            return
        self.fault, self.detail, self.fault_by = fault, detail, by or told(fault).by
        self.outcome = "denied" if fault is Fault.DENIED else "error"
        if self.requester is not None and not self.origin_ended:
            self.requester.reset(fault)
            self.requester = None
        if self._responded:
            self.responder.reset(fault)
            self._finish()
            return
        self._answer(*pages.refusal(fault, detail, self.effects, self.context.identity))

    def _answer(self, head: ResponseHead, body: bytes) -> None:
        self.response = head
        head.closes = not self.client_ended  # what is left of the request's body will not be read
        self.response_bytes = len(body)
        self._responded = True
        self.responder.respond(head)
        if self.request.method != b"HEAD" and body:
            self.responder.data(body)
        self.origin_ended = True
        self.responder.end([])
        self._finish()

    def origin_failed(self, fault: Fault, detail: str, *, by: By | None = None) -> None:
        """The origin is gone, or has broken its protocol."""
        self.requester = None
        if self.origin_ended:  # it has answered, and did not wait for the whole request
            self._finish()
        else:
            self.refuse(fault, detail, by=by)

    def client_gone(self, fault: Fault, detail: str) -> None:
        """The client has gone, or has given this request up."""
        if self.is_done:
            return
        if self.fault is None and not (self._switched and self.client_ended):
            self.fault, self.detail, self.fault_by = fault, detail, told(fault).by
            self.outcome = "error"
        if self.requester is not None and not (self.client_ended and self.origin_ended):
            self.requester.reset(fault)
            self.requester = None
        self._finish()

    # A connection that was upgraded.

    def to_client(self, data: bytes) -> None:
        """Bytes of the new protocol."""
        self.responder.data(data)

    def to_origin(self, data: bytes) -> None:
        """Bytes of the new protocol."""
        if self.requester is not None:
            self.requester.data(data)

    def broken_off(self, fault: Fault, detail: str, by: By) -> None:
        """What was said in the new protocol ends it."""
        self.refuse(fault, detail, by=by)

    def settle(self) -> None:
        """Send what was written since a hook has answered."""
        self.context.settle()

    # Back-pressure: whoever cannot write has the other side paused.

    def client_full(self) -> None:
        """The client does not take what it is sent."""
        self.is_client_full = True
        if self.requester is not None:
            self.requester.pause()

    def client_ready(self) -> None:
        """It does again."""
        self.is_client_full = False
        if self.requester is not None:
            self.requester.resume()

    def origin_full(self) -> None:
        """The origin does not take the request's body."""
        self.is_origin_full = True
        self.responder.pause()

    def origin_ready(self) -> None:
        """It does again."""
        self.is_origin_full = False
        self.responder.resume()

    def _settle(self) -> None:
        if self.client_ended and self.origin_ended:
            self._finish()

    def _finish(self) -> None:
        if self.is_done:
            return
        self.is_done = True
        self._early.clear()
        self.context.finished(self)
        self.responder.done()
