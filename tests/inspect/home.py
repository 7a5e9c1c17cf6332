"""As much of an inspector as a session needs that nobody reads."""

from __future__ import annotations

from proxy.flow.timers import Wheel
from proxy.inspect.sockets import Turn


class Home:
    """Its clock is set, and what it is told is kept."""

    def __init__(self, poller):
        self.poller, self.turn, self.wheel = poller, Turn(), Wheel()
        self.clock = 1_000.0
        self.sent = []
        self.forgotten = []

    def now(self):
        return self.clock

    def send(self, message):
        self.sent.append(message)

    def forget(self, session):
        self.forgotten.append(session)
