"""Sessions on their way to one inspector. Sessions that arrive faster than it takes them wait here, without copies."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from proxy.poller import Poller
from proxy.session.channel import Channel
from proxy.session.messages import Open

RETRY_S = 0.02


class Session(Protocol):
    """A session to be handed over."""

    is_handed_over: bool  # whether the inspector has it

    @property
    def is_over(self) -> bool:
        """Whether the session has ended."""
        ...

    def descriptors(self) -> list[int]:
        """The file descriptors of the client's and the origin's sockets."""
        ...


class Handover:
    """Hands sessions over in order. If the channel is full, or descriptors run out, it tries again after `RETRY_S`.

    A message queued in the channel holds copies of its descriptors: with thousands queued, the process would run out.
    """

    def __init__(self, channel: Channel, poller: Poller) -> None:
        self._channel, self._poller = channel, poller
        self._waiting: deque[tuple[Session, Open]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, session: Session, message: Open) -> None:
        """Hand `session` over, now or in its turn, unless it has ended by then."""
        if self._waiting or not self._try(session, message):
            if not self._waiting:
                self._poller.later(RETRY_S, self._retry)
            self._waiting.append((session, message))

    def _try(self, session: Session, message: Open) -> bool:
        session.is_handed_over = not self._channel.is_full and self._channel.send(message, session.descriptors())
        return session.is_handed_over

    def _retry(self) -> None:
        while self._waiting:
            session, message = self._waiting[0]
            if not session.is_over and not self._try(session, message):
                if not self._channel.is_closed:
                    self._poller.later(RETRY_S, self._retry)
                return
            self._waiting.popleft()
