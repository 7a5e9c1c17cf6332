"""The two ends of an exchange: what it asks of the client's side, and what of the origin's, whatever their versions."""

from __future__ import annotations

from typing import Protocol

from proxy.inspect.http.faults import Fault
from proxy.inspect.http.messages import Headers, ResponseHead


class Responder(Protocol):
    """The client's side of one exchange."""

    @property
    def queued(self) -> int:
        """Bytes that the client has not taken."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether a part of what it was given waits for a window: `Exchange.took_all` tells of its end."""
        ...

    def inform(self, head: ResponseHead) -> None:
        """Send an interim response (1xx)."""
        ...

    def respond(self, head: ResponseHead) -> None:
        """Send the response's head; of a switch (101, or 2xx of CONNECT) what follows is bytes of the new protocol."""
        ...

    def data(self, data: bytes) -> None:
        """Send a part of the body."""
        ...

    def end(self, trailers: Headers) -> None:
        """The response is complete."""
        ...

    def reset(self, fault: Fault) -> None:
        """What has begun cannot be completed."""
        ...

    def pause(self) -> None:
        """Take no more of the request's body from the client."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def done(self) -> None:
        """Both are complete: there can be another."""
        ...


class Requester(Protocol):
    """The origin's side of one exchange."""

    @property
    def queued(self) -> int:
        """Bytes that the origin has not taken."""
        ...

    @property
    def is_behind(self) -> bool:
        """Whether a part of what it was given waits for a window: `Exchange.took_all` tells of its end."""
        ...

    def data(self, data: bytes) -> None:
        """Send a part of the body."""
        ...

    def end(self, trailers: Headers) -> None:
        """The request is complete."""
        ...

    def reset(self, fault: Fault) -> None:
        """The client does not want the answer any more."""
        ...

    def pause(self) -> None:
        """Take no more of the response from the origin."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...
