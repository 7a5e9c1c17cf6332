"""The flow of data in an exchange: back-pressure, upgraded connections, and release of the origin."""

from __future__ import annotations

from proxy.inspect.http.faults import By, Fault, report_of
from proxy.inspect.http.messages import ResponseHead
from proxy.inspect.http.ruling import VerdictHandling


class DataFlow(VerdictHandling):
    """The part of an exchange that is about the flow of data."""

    __slots__ = ()

    def _complete(self) -> None:
        """End the exchange once both sides have been sent everything."""
        raise NotImplementedError

    def _finish(self) -> None:
        """End the exchange."""
        raise NotImplementedError

    @property
    def _has_sent(self) -> bool:
        """Whether the whole request was sent to the origin, or is queued for it."""
        return self.client_ended and (self.request_reader is None or self.request_reader.is_over)

    @property
    def has_all(self) -> bool:
        """Whether the whole request was sent to the origin, and its whole response received."""
        return self._has_sent and self.is_received

    @property
    def is_read(self) -> bool:
        """Whether no hook has more of the bodies or messages to read."""
        if self.websocket is not None and not self.websocket.is_read:
            return False
        return all(reader is None or reader.is_over for reader in (self.request_reader, self.response_reader))

    @property
    def awaits_switch(self) -> bool:
        """Whether the origin may still refuse to switch. Data that the client has sent behind its request must wait: an
        origin that refuses would take it for another request, which no policy has seen."""
        return self.request.is_tunnel and self.request.is_bodiless and not self._switched

    def has_body(self, head: ResponseHead) -> bool:
        """Whether this response may have a body."""
        return self.request.method != b"HEAD" and head.status not in (204, 304) and head.length != 0

    @property
    def is_origin_behind(self) -> bool:
        """Whether data of the new protocol waits for the origin, or the rest of a request whose client has gone. It is
        not needed once the request has been answered."""
        return (self._switched or self.is_abandoned) and self.requester is not None and self.requester.is_behind

    @property
    def is_behind(self) -> bool:
        """Whether data waits for either side."""
        return self.responder.is_behind or self.is_origin_behind

    def drop_origin(self, fault: Fault) -> None:
        """Release the origin, with a reset unless it has done its part and may already serve another exchange."""
        if self.requester is not None and (not self.has_all or self.is_origin_behind):
            self.requester.reset(fault)
        self.requester = None

    def client_gone(self, fault: Fault, detail: str) -> None:
        """The client is gone, or has cancelled this request.

        Without a proxy, the origin would still get what a client had sent before it left: so a request that is complete
        goes on to its end.
        """
        if self.is_done or self.is_abandoned:
            return
        if self.fault is None and not self._is_closed:
            self.fault, self.detail, self.fault_by = fault, detail, report_of(fault).by
            self.outcome = "error"
        is_behind = self._has_sent and self.requester is not None and self.requester.is_behind
        if fault is Fault.CLIENT_GONE and is_behind and not self.request.is_tunnel:
            self.is_abandoned = True
            self._complete()
            return
        self.drop_origin(fault)
        self._finish()

    @property
    def _is_closed(self) -> bool:
        """Whether the client of an upgraded connection owes nothing more: it may leave."""
        return self._switched and (self.client_ended or (self.websocket is not None and self.websocket.is_closed))

    def stop_reading(self) -> None:
        """Stop showing bodies to hooks."""
        for reader in (self.request_reader, self.response_reader):
            if reader is not None:
                reader.stop()
        if self.websocket is not None:
            self.websocket.stop()

    def wait(self) -> None:
        """No connection is free yet: pause the client."""
        self.is_waiting = True
        self.responder.pause()

    def retried(self) -> None:
        """The request will be sent again, once: the origin has refused it unprocessed."""
        self.is_retried = True
        self.requester = None

    # Upgraded connections.

    def upgrade_failed(self, fault: Fault, detail: str, by: By) -> None:
        """The upgraded connection ends because of an error in its own protocol."""
        self.refuse(fault, detail, by=by)

    def to_client(self, data: bytes) -> None:
        """Send bytes of the new protocol to the client."""
        self.responder.data(data)

    def to_origin(self, data: bytes) -> None:
        """Send bytes of the new protocol to the origin."""
        if self.requester is not None:
            self.requester.data(data)

    # Back-pressure: when one side cannot take more, the other is paused.

    def client_full(self) -> None:
        """The client's queue is full: pause the origin."""
        self.is_client_full = True
        self.pause_origin()

    def client_ready(self) -> None:
        """The client's queue has drained: resume the origin."""
        self.is_client_full = False
        self.resume_origin()

    def origin_full(self) -> None:
        """The origin's queue is full: pause the client."""
        self.is_origin_full = True
        self.responder.pause()

    def origin_ready(self) -> None:
        """The origin's queue has drained: resume the client."""
        self.is_origin_full = False
        self.responder.resume()

    def hold_body(self, *, from_client: bool) -> None:
        """Pause the sender of a body while a hook is asked."""
        if from_client:
            self.responder.pause()
        else:
            self.pause_origin()

    def release_body(self, *, from_client: bool) -> None:
        """Resume the sender of a body after the hook's answer."""
        if not from_client:
            if not self.is_client_full:
                self.resume_origin()
        elif not self.is_origin_full and not self.is_waiting:
            self.responder.resume()

    def pause_origin(self) -> None:
        """Pause the origin, unless its response is complete: then the connection may serve another exchange."""
        if self.requester is not None and not self.is_received:
            self.requester.pause()

    def resume_origin(self) -> None:
        if self.requester is not None and not self.is_received:
            self.requester.resume()
