"""A network for a conversation: bytes that take their time, ends that stop reading, close and reset by chance."""

import random

from proxy.errors import ProxyError
from proxy.inspect.stream import LOW_WATER, Side
from tests.inspect.http.talk import Talk

PIECES = (1, 9, 300, 5_000, 16_384, 65_536)  # bytes that come, or go, at once
TURNS = 100_000  # more than any conversation here takes until nothing moves


class Wire:
    """One connection, as `proxy.inspect.stream.Stream` to the proxy; `end` is who speaks at its far end."""

    def __init__(self, facts=None):
        self.tls = facts
        self.end_ = None
        self.side = None  # of the session; None: it was dialled
        self.events = None  # who hears of what comes: a handler by side, or a receiver
        self.out = bytearray()  # written by the proxy, and not taken by its kernel
        self.coming = bytearray()  # sent by the far end
        self.takes = True
        self.is_high = self.is_ending = self.has_ended = self.is_closed = self.is_final = False
        self.is_paused = False
        self.far_has_ended = self.was_told = False
        self.most = 0  # that ever waited

    # What the proxy does.

    @property
    def queued(self):
        return len(self.out)

    def write(self, data):
        if not (self.is_ending or self.is_closed):
            self.out += data
            self.most = max(self.most, len(self.out))
            self.is_high = self.is_high or len(self.out) > LOW_WATER

    def end(self):
        self.is_ending = True

    def abort(self):
        if not self.is_closed:
            self.is_closed = True
            self.out.clear()
            if self.end_ is not None:
                self.end_.was_reset()

    def pause(self):
        self.is_paused = True

    def resume(self):
        self.is_paused = False

    # What the network does. Each says whether something has moved.

    def carry(self, most):
        """Take up to `most` bytes of what the proxy has written to the far end."""
        if self.is_closed or not self.takes or self.has_ended or self.end_ is None:
            return False
        if not self.out:
            if not self.is_ending:
                return False
            self.has_ended = True
            self.end_.heard_end()
            return True
        data = bytes(self.out[:most])
        del self.out[:most]
        self.end_.heard(data)
        if self.is_high and len(self.out) < LOW_WATER and not self.is_final:
            self.is_high = False
            self._tell("drained")
        return True

    def bring(self, most):
        """Give the proxy up to `most` bytes of what the far end has sent, or the end behind it."""
        if self.is_closed or self.is_paused or self.is_final or self.was_told:
            return False
        data = bytes(self.coming[:most])
        del self.coming[:most]
        if data:
            self._tell("received", data)
        elif self.far_has_ended:
            self.was_told = True
            self._tell("ended")
        else:
            return False
        return True

    def reset(self):
        """The far end is gone, at once."""
        if not self.is_closed:
            self.is_closed = True
            self.out.clear()
            if not self.is_final:
                self._tell("broken", ConnectionResetError(104, "reset by chance"))

    def _tell(self, what, *arguments):
        tell = getattr(self.events, what)
        if self.side is None:
            tell(*arguments)
        else:
            tell(self.side, *arguments)


class Net(Talk):
    """A talk by wires. `origin_end(wire)` makes whoever is at the end of each connection to an origin."""

    Stream = Wire

    def __init__(self, seed, client_tls, origin_tls, client_end, origin_end, **options):
        self.chance = random.Random(seed)
        self.origin_tls, self._origin_end = origin_tls, origin_end
        self.dialling, self.dial_fails = [], 0.0
        self.wires = []
        self.verdicts = {}  # what a hook answers, if not None
        super().__init__(client_tls, origin_tls, **options)
        for wire, side in ((self.client, Side.CLIENT), (self.origin, Side.ORIGIN)):
            wire.side, wire.events = side, self.handler
        self.wires += [self.client, self.origin]
        self.browser = self.client.end_ = client_end(self.client)
        self.origins = [origin_end(self.origin)]
        self.origin.end_ = self.origins[0]

    def dial(self, host, port, *, server_name, alpn, receiver, then):
        self.dialling.append((receiver, then))

    def connect(self):
        """The next connection that was asked for is there, or fails."""
        receiver, then = self.dialling.pop(0)
        if self.chance.random() < self.dial_fails:
            then(ProxyError("refused", side="origin", retryable=True))
            return
        wire = Wire(self.origin_tls)
        wire.events = receiver
        self.origins.append(self._origin_end(wire))
        wire.end_ = self.origins[-1]
        self.wires.append(wire)
        if self.finished is not None:
            wire.abort()
        else:
            then(wire)

    def finish(self, reason, by):
        super().finish(reason, by)
        for wire in self.wires:
            wire.is_final = True
            wire.end()

    def answer_hook(self):
        """The oldest question that waits for an answer gets one."""
        hook, _, then = self.asked.pop(0)
        if self.finished is None:
            then(self.verdicts.get(hook))

    # Chance.

    def some(self, *, is_calm=False):
        """One thing happens; whether anything could. `is_calm`: everybody reads, and nothing is interrupted."""
        chance = self.chance
        moves = [self._carry, self._bring, self._act]
        if self.dialling:
            moves.append(self._connect)
        if self.asked:
            moves.append(self._answer_hook)
        chance.shuffle(moves)
        wires = [wire for wire in self.wires if not (wire.is_closed and wire.end_.is_over)]
        chance.shuffle(wires)
        for move in moves:
            for wire in wires:
                if move(wire, 1 << 20 if is_calm else chance.choice(PIECES)):
                    return True
        return False

    def _carry(self, wire, most):
        return wire.carry(most)

    def _bring(self, wire, most):
        return wire.bring(most)

    def _act(self, wire, most):
        return wire.end_.act(most)

    def _connect(self, wire, most):
        if self.dialling:
            self.connect()
            return True
        return False

    def _answer_hook(self, wire, most):
        if self.asked:
            self.answer_hook()
            return True
        return False

    def calm(self):
        """Everybody reads and says what is left to be said, until nothing moves any more."""
        for wire in self.wires:
            wire.takes = True
        for _ in range(TURNS):
            for each in (self.browser, *self.origins):
                each.read_all()
            if not self.some(is_calm=True):
                return
        raise AssertionError("it goes on for ever")
