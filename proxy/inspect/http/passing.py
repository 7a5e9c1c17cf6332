"""Who waits for whom in an exchange: back-pressure, connections that were upgraded, and when an origin is let go."""

from __future__ import annotations

from proxy.inspect.http.faults import Fault
from proxy.inspect.http.messages import ResponseHead
from proxy.inspect.http.ruling import Ruled


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
        return all(reader is None or reader.is_over for reader in (self.request_reader, self.response_reader))

    def has_body(self, head: ResponseHead) -> bool:
        """Whether a body may follow this head of the response."""
        return self.request.method != b"HEAD" and head.status not in (204, 304) and head.length != 0

    def drop_origin(self, fault: Fault) -> None:
        """Let the origin go. A connection that has done its part may be another exchange's already."""
        if self.requester is not None and not self.has_all:
            self.requester.reset(fault)
        self.requester = None

    def stop_reading(self) -> None:
        """No hook sees more of the bodies."""
        for reader in (self.request_reader, self.response_reader):
            if reader is not None:
                reader.stop()

    # A connection that was upgraded.

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

    def pause_origin(self) -> None:
        """Of a response that has come whole, the connection may be another exchange's."""
        if self.requester is not None and not self.is_received:
            self.requester.pause()

    def resume_origin(self) -> None:
        if self.requester is not None and not self.is_received:
            self.requester.resume()
