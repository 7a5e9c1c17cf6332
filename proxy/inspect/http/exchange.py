"""One request and its response: applies policies and hooks, forwards, times out, records."""

from __future__ import annotations

from typing import Protocol

from proxy.inspect.http import forwarding, pages, rules
from proxy.inspect.http.body import HOOK, BodyReader, HeldBody
from proxy.inspect.http.data_flow import DataFlow
from proxy.inspect.http.faults import By, Fault, report_of
from proxy.inspect.http.limits import Identity, Limits
from proxy.inspect.http.messages import Headers, RequestHead, ResponseHead, first, tokens, trailers_of, without
from proxy.inspect.http.sides import Requester, Responder
from proxy.inspect.http.websocket import WebSocket, is_websocket
from proxy.inspect.stream import SessionView
from proxy.verdict import Verdict


class Context(Protocol):
    """The conversation, as its exchanges see it."""

    session: SessionView
    identity: Identity
    limits: Limits

    def next_number(self) -> int:
        """The number of a new request, from 1."""
        ...

    def began(self, exchange: Exchange) -> None:
        """Record the exchange while it is open, if it takes long."""
        ...

    def assign_origin(self, exchange: Exchange) -> None:
        """Assign an origin. Calls `Exchange.origin_assigned`, perhaps after `wait`, or `Exchange.origin_failed`."""
        ...

    def finished(self, exchange: Exchange) -> None:
        """Record the exchange."""
        ...

    def settle(self) -> None:
        """Flush what was written after an answer of the proxy."""
        ...

    def wake(self, at: float) -> None:
        """Arrange for timers to run at `at`."""
        ...


class Exchange(DataFlow):
    """One exchange. The hooks `http_request` and `http_response` are shown it, too."""

    __slots__ = (
        "_early",
        "_held",
        "_is_cleared",
        "_is_origin_requested",
        "_responded",
        "context",
    )

    def __init__(self, context: Context, responder: Responder, request: RequestHead) -> None:
        super().__init__(responder, request, context.next_number(), context.session.now())
        self.context = context
        self._early = HeldBody()  # the request's body, until there is an origin
        self._is_origin_requested = False  # an origin is assigned, or being connected
        self._held = HeldBody()  # the response's body, while a hook decides about its head
        self._is_cleared = False  # policies and hooks have allowed the response's head
        self._responded = False  # the response's head has been sent

    # The request.

    def begin(self, *, is_complete: bool) -> None:
        """Decide about the request and forward it. `is_complete`: it has no body."""
        self.client_ended = is_complete
        if is_complete:
            self.request_sent = self.started
        context = self.context
        context.began(self)
        if forwarding.is_loop(self.request, context.identity, context.limits.passes):
            self.refuse(Fault.LOOP, "the request has passed this proxy before", by="proxy")
            return
        if forwarding.forwards_left(self.request) == 0:
            self.answer(*forwarding.last_answer(self.request))
            return
        self.admit(context.session, self._admitted)

    def _admitted(self) -> None:
        session = self.context.session
        if session.has("http_request"):
            self.wait()
            session.ask("http_request", self, self._request_hook_answered)
        else:
            self._proceed()

    def _request_hook_answered(self, answer: str | Verdict | None) -> None:
        if self.is_done:
            return
        if self.obey_hook("http_request", answer):
            self._proceed()
        self.context.settle()

    def _proceed(self) -> None:
        request, session = self.request, self.context.session
        if "request" in self.reads and not (request.is_bodiless or request.is_tunnel) and session.has(HOOK):
            self._read_request()
        else:
            self._request_origin()

    def _read_request(self) -> None:
        """Show the body to the hook. Nothing is sent to the origin until the hook lets a part pass."""
        self.request.length = None  # the hook may change it
        self.request_reader = reader = BodyReader(self, self.context.session, from_client=True)
        if b"100-continue" in tokens(first(self.request.headers, b"expect") or b""):
            self.request.headers = without(self.request.headers, b"expect")
            self.responder.inform(ResponseHead(100))
        self.is_waiting = False
        self.responder.resume()
        self._early.pass_on(reader.data, reader.end)

    def _request_origin(self) -> None:
        self._is_origin_requested = True
        forwarding.sign_request(self.request, self.context.identity)
        self.context.assign_origin(self)

    def origin_assigned(self, requester: Requester) -> None:
        """`requester` has sent the request's head: send the part of the body that has arrived."""
        self.requester = requester
        if self.is_waiting:
            self.is_waiting = False
            self.responder.resume()
        if not self.awaits_switch:
            self._early.pass_on(requester.data, requester.end)

    def request_data(self, data: bytes) -> None:
        """Take a part of the request's body, or bytes of an upgraded connection."""
        if self.is_done:
            return
        self.request_bytes += len(data)
        self.last_active = self.context.session.now()
        self._take_request(data)

    def _take_request(self, data: bytes) -> None:
        if self.websocket is not None:
            self.websocket.received(data, from_client=True)
        elif self.request_reader is not None:
            self.request_reader.data(data)
        else:
            self._pass_request(data)

    def _pass_request(self, data: bytes) -> None:
        if self.requester is not None and not self.awaits_switch:
            self.requester.data(data)
        elif self.fault is None and not self.is_complete:
            self._early.data(data)
            if self.awaits_switch:
                self.responder.pause()

    def request_ended(self, trailers: Headers) -> None:
        """The request is complete, or the client has closed its half of an upgraded connection."""
        if self.client_ended:
            return
        trailers = trailers_of(trailers)
        self.client_ended = True
        if self._switched and not self.origin_ended:
            self.ended_first = "client"
        self.request_sent = self.last_active = self.context.session.now()
        if self.request_reader is not None:
            self.request_reader.end(trailers)
        elif self.websocket is None or self.websocket.ended(from_client=True):
            self._end_request(trailers)
        self._settle()

    def _end_request(self, trailers: Headers) -> None:
        if self.requester is None or self.awaits_switch:
            self._early.end(trailers)
        else:
            self.requester.end(trailers)

    # The response.

    def informed(self, head: ResponseHead) -> None:
        """The origin has sent an interim response."""
        if self.is_abandoned:
            return
        self.last_active = self.context.session.now()
        self.responder.inform(head)

    def responded(self, head: ResponseHead) -> None:
        """The origin has sent the response's head."""
        if self.is_abandoned:
            return
        self.response = head
        self.origin_version = head.version
        self.first_byte = self.last_active = self.context.session.now()
        session = self.context.session
        if self.judges_response and not self.judge_response(session):
            return
        if session.has("http_response"):
            self.pause_origin()
            session.ask("http_response", self, self._response_hook_answered)
        else:
            self._respond(head)

    def _response_hook_answered(self, answer: str | Verdict | None) -> None:
        if self.is_done or self.fault is not None:
            return
        if self.obey_hook("http_response", answer) and self.response is not None:
            self._respond(self.response)
            self._release()
        self.context.settle()

    def _respond(self, head: ResponseHead) -> None:
        forwarding.sign_response(head, self.context.identity)
        self._is_cleared = True
        if self.response_changes:
            head.headers = rules.apply_changes(head.headers, self.response_changes)
        if head.status == 101 or (self.request.method == b"CONNECT" and 200 <= head.status < 300):
            self._switched = True
            self.client_ended = False
            if is_websocket(self.request):
                self.websocket = WebSocket(self, self.request, head, self.context.session, self.context.limits)
        elif "response" in self.reads and self.has_body(head) and self.context.session.has(HOOK):
            head.length = None
            self.response_reader = BodyReader(self, self.context.session, from_client=False)
            return  # the head is sent with the first part that the hook lets pass; until then a page can replace it
        self._send_head(head)
        if self._switched:
            self.release_body(from_client=True)
            self._early.pass_on(self._take_request, self.request_ended)

    def _send_head(self, head: ResponseHead) -> None:
        self._responded = True
        self.responder.respond(head)

    def _release(self) -> None:
        """Forward what arrived while a hook was asked."""
        self.resume_origin()
        self._held.pass_on(self._pass_response, self.response_ended)

    def response_data(self, data: bytes) -> None:
        """Take a part of the response's body, or bytes of an upgraded connection."""
        if self.is_done or self.fault is not None:
            return
        self.response_bytes += len(data)
        self.last_active = self.context.session.now()
        if self._is_cleared:
            self._pass_response(data)
            return
        self._held.data(data)
        self.pause_origin()  # again, as all are resumed once the client has read what was queued for others

    def _pass_response(self, data: bytes) -> None:
        if self.websocket is not None:
            self.websocket.received(data, from_client=False)
        elif self.response_reader is not None:
            self.response_reader.data(data)
        else:
            self.responder.data(data)

    def response_ended(self, trailers: Headers) -> None:
        """The response is complete, or the origin has closed its half of an upgraded connection."""
        if self.origin_ended or self.fault is not None:
            return
        self.is_received = True
        trailers = trailers_of(trailers)
        if not self._is_cleared:
            self._held.end(trailers)
            return
        self.origin_ended = True
        if not self._switched and self.request.is_tunnel:
            self.client_ended = True  # nothing follows a switch that did not happen
        elif self._switched and not self.client_ended:
            self.ended_first = "origin"
        self.last_active = self.context.session.now()
        if self.response_reader is not None:
            self.response_reader.end(trailers)
        elif self.websocket is None or self.websocket.ended(from_client=False):
            self.responder.end(trailers)
        self._settle()

    # Bodies read by a hook.

    def body_passed(self, data: bytes, *, from_client: bool) -> None:
        """Forward a part that the hook has let pass."""
        if from_client:
            self._pass_request(data)
            if not self._is_origin_requested:
                self._request_origin()
            return
        self._begin_response()
        self.responder.data(data)

    def body_ended(self, trailers: Headers, *, from_client: bool) -> None:
        """Forward the end, which the hook has let pass."""
        if from_client:
            self._end_request(trailers)
            if not self._is_origin_requested:
                self._request_origin()
            self._settle()
            return
        self._begin_response()
        self.responder.end(trailers)
        self._settle()

    def _begin_response(self) -> None:
        if not self._responded:
            assert self.response is not None
            self._send_head(self.response)

    # Failures.

    def refuse(self, fault: Fault, detail: str, *, by: By | None = None) -> None:
        """Answer with an error page, or abort a response that has begun."""
        if self.is_done or (self.fault is not None and not self.is_complete):
            return
        if self.fault is not None:  # the client does not take the page of an earlier fault
            self.responder.reset(fault)
            self._finish()
            return
        self.fault, self.detail, self.fault_by = fault, detail, by or report_of(fault).by
        self.outcome = "denied" if fault is Fault.DENIED else "error"
        self.drop_origin(fault)
        self.stop_reading()
        if self._responded:
            self.responder.reset(fault)
            self._finish()
            return
        self.answer(*pages.refusal(fault, detail, self.effects, self.context.identity))

    def answer(self, head: ResponseHead, body: bytes) -> None:
        """Answer in place of the origin."""
        self.response = head
        head.closes = not self.client_ended  # the rest of the request's body is not read
        self.response_bytes = len(body)
        self._responded = True
        self.responder.respond(head)
        if self.request.method != b"HEAD" and body:
            self.responder.data(body)
        self.origin_ended = True
        self.responder.end([])
        self._complete()

    def origin_failed(self, fault: Fault, detail: str, *, by: By | None = None) -> None:
        """The origin is unreachable, was lost, or has violated its protocol."""
        self.requester = None
        if (self.has_all and not self.origin_ended) or (self.origin_ended and not self.is_read):
            self.client_ended = True  # the origin takes no more of the request
            return  # a hook is still asked about what has arrived
        if self.origin_ended:  # it answered without waiting for the whole request
            self._complete()
        else:
            self.refuse(fault, detail, by=by)

    # Upgraded connections.

    def websocket_ended(self, *, from_client: bool) -> None:
        """Forward the end of a side, after a hook has let its last message pass."""
        if from_client:
            self._end_request([])
        else:
            self.responder.end([])
        self._settle()

    def settle(self) -> None:
        """Flush what was written after a hook's answer."""
        self.context.settle()

    def _settle(self) -> None:
        if self.client_ended and self.origin_ended and self.is_read:
            self._complete()

    def _complete(self) -> None:
        """End the exchange once both sides have been sent everything."""
        self.is_complete = True
        if self.is_behind:
            self.context.wake(self.context.session.now() + self.context.limits.body_s)
        else:
            self._finish()

    def all_sent(self) -> None:
        """Everything queued for one side has been sent."""
        if self.is_complete and not self.is_behind:
            self._finish()

    def _finish(self) -> None:
        if self.is_done:
            return
        self.is_done = True
        if self.is_abandoned:
            self.drop_origin(Fault.CLIENT_GONE)
        self.stop_reading()
        self._early.clear()
        self.context.finished(self)
        self.responder.done()
