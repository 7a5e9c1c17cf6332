"""Sessions on their way to one inspector. When they come faster than it takes them they wait here, without copies."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from proxy.poller import Poller
from proxy.session.channel import Channel
from proxy.session.messages import Open

RETRY_S = 0.02


class Session(Protocol):
    """What is handed over."""

    is_handed: bool  # the inspector has it

    @property
    def is_over(self) -> bool:
        """Nobody waits for the session any more."""
        ...

    def descriptors(self) -> list[int]:
        """Of the client's and the origin's socket."""
        ...


class Handover:
    """Keeps sessions in order. What the channel cannot take, or has no descriptors for, is tried again soon.

    A message that waits in the channel has copies of its descriptors: with thousands of them the process would run out.
    """

    def __init__(self, channel: Channel, poller: Poller) -> None:
        self._channel, self._poller = channel, poller
        self._waiting: deque[tuple[Session, Open]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, session: Session, message: Open) -> None:
        """Hand `session` over, now or when its turn comes; not at all if it is over by then."""
        if self._waiting or not self._try(session, message):
            if not self._waiting:
                self._poller.later(RETRY_S, self._go_on)
            self._waiting.append((session, message))

    def _try(self, session: Session, message: Open) -> bool:
        session.is_handed = not self._channel.is_full and self._channel.send(message, session.descriptors())
        return session.is_handed

    def _go_on(self) -> None:
        while self._waiting:
            session, message = self._waiting[0]
            if not session.is_over and not self._try(session, message):
                if not self._channel.is_closed:
                    self._poller.later(RETRY_S, self._go_on)
                return
            self._waiting.popleft()
