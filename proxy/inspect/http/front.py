"""The interfaces between a conversation and its client's side."""

from __future__ import annotations

from typing import Protocol

from proxy.flow.record import ClosedBy, CloseReason
from proxy.inspect.http.exchange import Context
from proxy.inspect.http.faults import Fault


class Owner(Context, Protocol):
    """The conversation, as its client's side sees it."""

    is_draining: bool

    def wake(self, at: float) -> None:
        """Call `Front.expired` at `at`, or at an earlier time requested before."""
        ...

    def note_fault(self, fault: Fault) -> None:
        """Note why the conversation will end, for the flow's record."""
        ...

    def close_client(self, reason: CloseReason | None, by: ClosedBy) -> None:
        """End the session. None: with the reason noted by `note_fault`, if any."""
        ...


class Front(Protocol):
    """The client's side: `H1Server` or `H2Server`."""

    def received(self, data: bytes) -> None:
        """Handle bytes of the client."""
        ...

    def ended(self) -> None:
        """The client has closed its half."""
        ...

    def broken(self, detail: str) -> None:
        """The connection to the client is gone."""
        ...

    def full(self) -> None:
        """The client's queue is full: pause the origins."""
        ...

    def ready(self) -> None:
        """The client's queue has drained: resume the origins."""
        ...

    def drain(self) -> None:
        """End after the requests in progress."""
        ...

    def due(self, now: float) -> float:
        """The time of the next deadline."""
        ...

    def expired(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        ...
