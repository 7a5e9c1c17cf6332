"""What the client's side of a conversation knows of the conversation, and the other way round."""

from __future__ import annotations

from typing import Protocol

from proxy.flow.record import ClosedBy, CloseReason
from proxy.inspect.http.exchange import Context
from proxy.inspect.http.faults import Fault


class Owner(Context, Protocol):
    """The conversation, as the client's side sees it."""

    is_draining: bool

    def wake(self, at: float) -> None:
        """Call `Front.expired` then, or earlier if it has been asked to."""
        ...

    def at_fault(self, fault: Fault) -> None:
        """Why the conversation will end: it stands in the flow's record."""
        ...

    def close_client(self, reason: CloseReason | None, by: ClosedBy) -> None:
        """End the session; None: for the fault that was told before, if one was."""
        ...


class Front(Protocol):
    """The client's side: `H1Server` or `H2Server`."""

    def received(self, data: bytes) -> None:
        """Bytes of the client."""
        ...

    def ended(self) -> None:
        """The client has closed its half."""
        ...

    def broken(self, detail: str) -> None:
        """The connection to the client is gone."""
        ...

    def full(self) -> None:
        """The client does not take what it is sent."""
        ...

    def ready(self) -> None:
        """It does again."""
        ...

    def drain(self) -> None:
        """End when what is under way is done."""
        ...

    def due(self, now: float) -> float:
        """When something has to have happened."""
        ...

    def expired(self, now: float) -> None:
        """It has not."""
        ...
