"""An inspector for tests of sessions: only what a session that is not read needs."""

from __future__ import annotations

from proxy.flow.timers import Wheel
from proxy.inspect.sockets import Turn


class StubInspector:
    """Its clock is set by the test; what it is sent is recorded."""

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
