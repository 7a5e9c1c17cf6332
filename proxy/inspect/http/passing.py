"""Who waits for whom in an exchange: back-pressure, connections that were upgraded, and when an origin is let go."""

from __future__ import annotations

from proxy.inspect.http.body import HOOK
from proxy.inspect.http.faults import By, Fault
from proxy.inspect.http.messages import ResponseHead
from proxy.inspect.http.ruling import Ruled
from proxy.verdict import Verdict


class Passing(Ruled):
    """An exchange, as far as bytes pass through it."""

    __slots__ = ()

    @property
    def has_all(self) -> bool:
        """Whether the origin has been sent all of the request, and has sent all of its response."""
        is_sent = self.client_ended and (self.request_reader is None or self.request_reader.is_over)
        return is_sent and self.is_received

    @property
    def is_read(self) -> bool:
        """Whether no hook has more of the bodies to see."""
        if self.websocket is not None and not self.websocket.is_read:
            return False
        return all(reader is None or reader.is_over for reader in (self.request_reader, self.response_reader))

    @property
    def awaits_switch(self) -> bool:
        """Whether the origin may still refuse to switch: what the client has sent behind its request would be another
        request to it, of which nobody has asked whether it may be."""
        return self.request.is_tunnel and self.request.is_bodiless and not self._switched

    def has_body(self, head: ResponseHead) -> bool:
        """Whether a body may follow this head of the response."""
        return self.request.method != b"HEAD" and head.status not in (204, 304) and head.length != 0

    @property
    def is_origin_behind(self) -> bool:
        """Whether an origin has still to take what was said in the new protocol; of a request it needs no more, once it
        has answered."""
        return self._switched and self.requester is not None and self.requester.is_behind

    @property
    def is_behind(self) -> bool:
        """Whether a side has still to take what it was sent."""
        return self.responder.is_behind or self.is_origin_behind

    def drop_origin(self, fault: Fault) -> None:
        """Let the origin go. A connection that has done its part may be another exchange's already."""
        if self.requester is not None and (not self.has_all or self.is_origin_behind):
            self.requester.reset(fault)
        self.requester = None

    def stop_reading(self) -> None:
        """No hook sees more of the bodies."""
        for reader in (self.request_reader, self.response_reader):
            if reader is not None:
                reader.stop()
        if self.websocket is not None:
            self.websocket.stop()

    def wait(self) -> None:
        """No origin can take it yet: the client is to send no more."""
        self.is_waiting = True
        self.responder.pause()

    def repeat(self) -> None:
        """The origin has refused the request unread: it may be sent again, once."""
        self.is_repeated = True
        self.requester = None

    # A connection that was upgraded.

    def broken_off(self, fault: Fault, detail: str, by: By) -> None:
        """What was said in the new protocol ends it."""
        self.refuse(fault, detail, by=by)

    def to_client(self, data: bytes) -> None:
        """Bytes of the new protocol."""
        self.responder.data(data)

    def to_origin(self, data: bytes) -> None:
        """Bytes of the new protocol."""
        if self.requester is not None:
            self.requester.data(data)

    # Back-pressure: whoever cannot write has the other side paused.

    def client_full(self) -> None:
        """The client does not take what it is sent."""
        self.is_client_full = True
        self.pause_origin()

    def client_ready(self) -> None:
        """It does again."""
        self.is_client_full = False
        self.resume_origin()

    def origin_full(self) -> None:
        """The origin does not take the request's body."""
        self.is_origin_full = True
        self.responder.pause()

    def origin_ready(self) -> None:
        """It does again."""
        self.is_origin_full = False
        self.responder.resume()

    def hold_body(self, *, from_client: bool) -> None:
        """The hook is asked: no more of this body."""
        if from_client:
            self.responder.pause()
        else:
            self.pause_origin()

    def release_body(self, *, from_client: bool) -> None:
        """It has answered."""
        if not from_client:
            if not self.is_client_full:
                self.resume_origin()
        elif not self.is_origin_full and not self.is_waiting:
            self.responder.resume()

    def body_answered(self, answer: str | Verdict) -> bool:
        """The hook has said what is to become of the exchange; whether it goes on."""
        return self.obey_hook(HOOK, answer)

    def pause_origin(self) -> None:
        """Of a response that has come whole, the connection may be another exchange's."""
        if self.requester is not None and not self.is_received:
            self.requester.pause()

    def resume_origin(self) -> None:
        if self.requester is not None and not self.is_received:
            self.requester.resume()
