"""The interfaces of an exchange to the client's side and the origin's side, independent of the HTTP version."""

from __future__ import annotations

from typing import Protocol

from proxy.inspect.http.faults import Fault
from proxy.inspect.http.messages import Headers, ResponseHead


class Responder(Protocol):
    """The client's side of one exchange."""

    @property
    def queued(self) -> int:
        """Bytes queued for the client."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether written data waits for a window; `Exchange.all_sent` is called once it no longer does."""
        ...

    def inform(self, head: ResponseHead) -> None:
        """Send an interim response (1xx)."""
        ...

    def respond(self, head: ResponseHead) -> None:
        """Send the response's head; after a switch (101, or 2xx to CONNECT), data is of the new protocol."""
        ...

    def data(self, data: bytes) -> None:
        """Send a part of the body."""
        ...

    def end(self, trailers: Headers) -> None:
        """End the response."""
        ...

    def reset(self, fault: Fault) -> None:
        """Abort the response."""
        ...

    def pause(self) -> None:
        """Stop reading the request's body."""
        ...

    def resume(self) -> None:
        """Continue reading."""
        ...

    def done(self) -> None:
        """The exchange is complete: another may begin."""
        ...


class Requester(Protocol):
    """The origin's side of one exchange."""

    @property
    def queued(self) -> int:
        """Bytes that the origin has not taken."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether written data waits for a window; `Exchange.all_sent` is called once it no longer does."""
        ...

    def data(self, data: bytes) -> None:
        """Send a part of the body."""
        ...

    def end(self, trailers: Headers) -> None:
        """End the request."""
        ...

    def reset(self, fault: Fault) -> None:
        """Cancel the request."""
        ...

    def pause(self) -> None:
        """Stop reading the response."""
        ...

    def resume(self) -> None:
        """Continue reading."""
        ...
