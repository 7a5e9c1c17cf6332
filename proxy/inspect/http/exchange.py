"""One request and its response, from the client's side to the origin's and back: judged, sent on, watched, recorded."""

from __future__ import annotations

from typing import Protocol

from proxy.inspect.http import forwarding, pages, rules
from proxy.inspect.http.body import HOOK, BodyReader, Held
from proxy.inspect.http.faults import By, Fault, told
from proxy.inspect.http.limits import Identity, Limits
from proxy.inspect.http.messages import Headers, RequestHead, ResponseHead, first, tokens, trailers_of, without
from proxy.inspect.http.passing import Passing
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

    def began(self, exchange: Exchange) -> None:
        """Tell of it while it goes on, if it takes long."""
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

    def wake(self, at: float) -> None:
        """Look at what is due then."""
        ...


class Exchange(Passing):
    """What became of one request: also what is told of it to the hooks `http_request` and `http_response`."""

    __slots__ = (
        "_early",
        "_held",
        "_is_cleared",
        "_is_taken",
        "_responded",
        "context",
    )

    def __init__(self, context: Context, responder: Responder, request: RequestHead) -> None:
        super().__init__(responder, request, context.next_number(), context.session.now())
        self.context = context
        self._early = Held()  # the request's body, while it is not known where it goes
        self._is_taken = False  # it is known where the request goes, or is being found out
        self._held = Held()  # the response's, while a hook looks at the head
        self._is_cleared = False  # nobody else is to be asked about the response's head
        self._responded = False  # the head is with the client

    # The request, on its way to the origin.

    def begin(self, *, is_complete: bool) -> None:
        """Decide about the request and send it on; `is_complete`: it has no body."""
        self.client_ended = is_complete
        if is_complete:
            self.sent = self.started
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
            session.ask("http_request", self, self._asked)
        else:
            self._go()

    def _asked(self, answer: str | Verdict | None) -> None:
        if self.is_done:
            return
        if self.obey_hook("http_request", answer):
            self._go()
        self.context.settle()

    def _go(self) -> None:
        request, session = self.request, self.context.session
        if "request" in self.reads and not (request.is_bodiless or request.is_tunnel) and session.has(HOOK):
            self._read_request()
        else:
            self._take()

    def _read_request(self) -> None:
        """Show the body to the hook; nothing goes to the origin before the hook lets something pass."""
        self.request.length = None  # the hook may make it longer or shorter
        self.request_reader = reader = BodyReader(self, self.context.session, from_client=True)
        if b"100-continue" in tokens(first(self.request.headers, b"expect") or b""):
            self.request.headers = without(self.request.headers, b"expect")
            self.responder.inform(ResponseHead(100))
        self.is_waiting = False
        self.responder.resume()
        self._early.pass_on(reader.data, reader.end)

    def _take(self) -> None:
        self._is_taken = True
        forwarding.sign_request(self.request, self.context.identity)
        self.context.take(self)

    def taken(self, requester: Requester) -> None:
        """An origin has the request's head; what came of the body follows it."""
        self.requester = requester
        if self.is_waiting:
            self.is_waiting = False
            self.responder.resume()
        if not self.awaits_switch:
            self._early.pass_on(requester.data, requester.end)

    def request_data(self, data: bytes) -> None:
        """A part of the request's body, or bytes of what the connection was upgraded to."""
        if self.is_done:
            return
        self.request_bytes += len(data)
        self.moved = self.context.session.now()
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
        """The client has sent all of its request, or closed its half of the upgraded connection."""
        if self.client_ended:
            return
        trailers = trailers_of(trailers)
        self.client_ended = True
        if self._switched and not self.origin_ended:
            self.ended_first = "client"
        self.sent = self.moved = self.context.session.now()
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
        session = self.context.session
        if self.judges_response and not self.judge_response(session):
            return
        if session.has("http_response"):
            self.pause_origin()
            session.ask("http_response", self, self._response_asked)
        else:
            self._respond(head)

    def _response_asked(self, answer: str | Verdict | None) -> None:
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
            head.headers = rules.changed(head.headers, self.response_changes)
        if head.status == 101 or (self.request.method == b"CONNECT" and 200 <= head.status < 300):
            self._switched = True
            self.client_ended = False
            if is_websocket(self.request):
                self.websocket = WebSocket(self, self.request, head, self.context.session, self.context.limits)
        elif "response" in self.reads and self.has_body(head) and self.context.session.has(HOOK):
            head.length = None
            self.response_reader = BodyReader(self, self.context.session, from_client=False)
            return  # the head goes with the first bytes that the hook lets pass: until then a page can be sent
        self._send_head(head)
        if self._switched:
            self.release_body(from_client=True)
            self._early.pass_on(self._take_request, self.request_ended)

    def _send_head(self, head: ResponseHead) -> None:
        self._responded = True
        self.responder.respond(head)

    def _release(self) -> None:
        """Send what has come while a hook was asked."""
        self.resume_origin()
        self._held.pass_on(self._pass_response, self.response_ended)

    def response_data(self, data: bytes) -> None:
        """A part of the response's body, or bytes of what the connection was upgraded to."""
        if self.is_done or self.fault is not None:
            return
        self.response_bytes += len(data)
        self.moved = self.context.session.now()
        if self._is_cleared:
            self._pass_response(data)
            return
        self._held.data(data)
        self.pause_origin()  # again: a client that has read what is others' has had all resumed

    def _pass_response(self, data: bytes) -> None:
        if self.websocket is not None:
            self.websocket.received(data, from_client=False)
        elif self.response_reader is not None:
            self.response_reader.data(data)
        else:
            self.responder.data(data)

    def response_ended(self, trailers: Headers) -> None:
        """The origin has sent all of its response, or closed its half of the upgraded connection."""
        if self.origin_ended or self.fault is not None:
            return
        self.is_received = True
        trailers = trailers_of(trailers)
        if not self._is_cleared:
            self._held.end(trailers)
            return
        self.origin_ended = True
        if not self._switched and self.request.is_tunnel:
            self.client_ended = True  # what was to follow a switch does not follow
        elif self._switched and not self.client_ended:
            self.ended_first = "origin"
        self.moved = self.context.session.now()
        if self.response_reader is not None:
            self.response_reader.end(trailers)
        elif self.websocket is None or self.websocket.ended(from_client=False):
            self.responder.end(trailers)
        self._settle()

    # Bodies that a hook reads.

    def body_passed(self, data: bytes, *, from_client: bool) -> None:
        """The hook lets this pass."""
        if from_client:
            self._pass_request(data)
            if not self._is_taken:
                self._take()
            return
        self._begin_response()
        self.responder.data(data)

    def body_ended(self, trailers: Headers, *, from_client: bool) -> None:
        """The hook has let the end pass."""
        if from_client:
            self._end_request(trailers)
            if not self._is_taken:
                self._take()
            self._settle()
            return
        self._begin_response()
        self.responder.end(trailers)
        self._settle()

    def _begin_response(self) -> None:
        if not self._responded:
            assert self.response is not None
            self._send_head(self.response)

    # What goes wrong.

    def refuse(self, fault: Fault, detail: str, *, by: By | None = None) -> None:
        """Tell the client why not, if its response has not begun; otherwise break it off."""
        if self.is_done or (self.fault is not None and not self.is_complete):
            return
        if self.fault is not None:  # the client does not take the page that tells it of one
            self.responder.reset(fault)
            self._finish()
            return
        self.fault, self.detail, self.fault_by = fault, detail, by or told(fault).by
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
        head.closes = not self.client_ended  # what is left of the request's body will not be read
        self.response_bytes = len(body)
        self._responded = True
        self.responder.respond(head)
        if self.request.method != b"HEAD" and body:
            self.responder.data(body)
        self.origin_ended = True
        self.responder.end([])
        self._complete()

    def origin_failed(self, fault: Fault, detail: str, *, by: By | None = None) -> None:
        """The origin is gone, or has broken its protocol."""
        self.requester = None
        if (self.has_all and not self.origin_ended) or (self.origin_ended and not self.is_read):
            self.client_ended = True  # nobody hears more of it
            return  # a hook is asked about what has come
        if self.origin_ended:  # it has answered, and did not wait for the whole request
            self._complete()
        else:
            self.refuse(fault, detail, by=by)

    def client_gone(self, fault: Fault, detail: str) -> None:
        """The client has gone, or has given this request up."""
        if self.is_done:
            return
        if self.fault is None and not (self._switched and self.client_ended):
            self.fault, self.detail, self.fault_by = fault, detail, told(fault).by
            self.outcome = "error"
        self.drop_origin(fault)
        self._finish()

    # A connection that was upgraded.

    def websocket_read(self, *, from_client: bool) -> None:
        """A hook has let pass all that this side has said, which has ended meanwhile."""
        if from_client:
            self._end_request([])
        else:
            self.responder.end([])
        self._settle()

    def settle(self) -> None:
        """Send what was written since a hook has answered."""
        self.context.settle()

    def _settle(self) -> None:
        if self.client_ended and self.origin_ended and self.is_read:
            self._complete()

    def _complete(self) -> None:
        """End it when either side has been sent all that it has to have."""
        self.is_complete = True
        if self.is_behind:
            self.context.wake(self.context.session.now() + self.context.limits.body_s)
        else:
            self._finish()

    def took_all(self) -> None:
        """Nothing waits for one of the sides any more."""
        if self.is_complete and not self.is_behind:
            self._finish()

    def _finish(self) -> None:
        if self.is_done:
            return
        self.is_done = True
        self.stop_reading()
        self._early.clear()
        self.context.finished(self)
        self.responder.done()
