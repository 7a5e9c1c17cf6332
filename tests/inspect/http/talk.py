"""A conversation between a client and an origin that are written down: streams in memory, and a clock that is set."""

from proxy.inspect.http.conversation import Conversation
from proxy.inspect.http.limits import Limits
from proxy.inspect.stream import LOW_WATER, Side
from proxy.session.facts import FlowFacts, TLSFacts

FLOW = FlowFacts(
    id="F1",
    tenant="acme",
    onramp="connected",
    tunnel="t1",
    src="100.96.0.2",
    src_port=40000,
    dst="192.0.2.1",
    dst_port=80,
)


def tls(alpn, sni="web.lab"):
    """What was agreed, for a side with TLS."""
    return TLSFacts(version="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256", sni=sni, alpn=alpn)


class MemoryStream:
    """One side: what was written, and what was asked of it."""

    def __init__(self, facts=None):
        self.tls = facts
        self.written = bytearray()
        self.queued = 0
        self.takes = True  # the far end reads
        self.is_ended = self.is_aborted = self.is_paused = False
        self.writes = 0

    def write(self, data):
        self.written += data
        self.writes += 1
        if not self.takes:
            self.queued += len(data)

    def end(self):
        self.is_ended = True

    def abort(self):
        self.is_aborted = True

    def pause(self):
        self.is_paused = True

    def resume(self):
        self.is_paused = False

    def take(self):
        """What was written since the last time."""
        data = bytes(self.written)
        self.written.clear()
        return data


class Dialled:
    """A connection that was asked for."""

    def __init__(self, host, port, server_name, alpn, receiver, then):
        self.host, self.port, self.server_name, self.alpn = host, port, server_name, tuple(alpn)
        self.receiver, self.then = receiver, then
        self.stream = None

    def connected(self, facts=None):
        self.stream = MemoryStream(facts)
        self.then(self.stream)
        return self.stream


class Talk:
    """Both ends of one conversation, and the session in its middle."""

    Stream = MemoryStream

    def __init__(self, client_tls=None, origin_tls=None, *, has_origin=True, hooks=None, judge=None, **limits):
        self.flow = FLOW
        self.client = self.Stream(client_tls)
        self.origin = self.Stream(origin_tls) if has_origin else None
        self.clock = 1000.0
        self.armed = None
        self.dials = []
        self.at_ends = []
        self.records, self.going_on = [], []
        self.finished = None
        self.hooks = hooks or {}
        self.asked = []  # (hook, argument, then), of hooks that are to be answered later
        self.told = []
        self.counted = []  # (limits, then), to be answered later
        self._judge = judge
        self.facts = []
        failure = limits.pop("failure", None)
        self.handler = Conversation(self, limits=Limits(**limits), failure=failure)
        self.handler.start()

    # As the session is to the handler.

    def now(self):
        return self.clock

    def arm(self, seconds):
        self.armed = None if seconds is None else self.clock + seconds

    def at_end(self, function):
        self.at_ends.append(function)

    def dial(self, host, port, *, server_name, alpn, receiver, then):
        self.dials.append(Dialled(host, port, server_name, alpn, receiver, then))

    def has(self, hook):
        return hook in self.hooks

    def judge(self, phase, facts):
        assert phase == "http"
        self.facts.append(facts)
        return self._judge(facts) if self._judge else None

    def count(self, limits, then):
        self.counted.append((limits, then))

    def ask(self, hook, argument, then):
        answer = self.hooks.get(hook)
        if answer == "later":
            self.asked.append((hook, argument, then))
        else:
            then(answer(argument) if answer else None)

    def notify_hook(self, hook, argument):
        self.told.append((hook, argument))

    def record(self, child):
        (self.going_on if child.is_open else self.records).append(child)

    def upgrade(self, handler, leftover):
        raise AssertionError("nothing is handed on")

    def finish(self, reason, by):
        assert self.finished is None, "finished twice"
        self.finished = (reason, by)

    # As the far ends are.

    def say(self, data):
        """The client sends `data`; what the origin then has."""
        self.handler.received(Side.CLIENT, data)
        return self.origin.take() if self.origin else b""

    def answer(self, data):
        """The origin sends `data`; what the client then has."""
        self.handler.received(Side.ORIGIN, data)
        return self.client.take()

    def exchange(self, request, response):
        """Both, one after the other."""
        return self.say(request), self.answer(response)

    def wait(self, seconds):
        """Time passes, and the handler is told when it has asked to be."""
        end = self.clock + seconds
        while self.armed is not None and self.armed <= end and self.finished is None:
            self.clock, self.armed = max(self.clock, self.armed), None
            self.handler.expired(self.clock)
        self.clock = end

    def drained(self, side):
        """The far end of `side` has taken everything."""
        stream = self.client if side is Side.CLIENT else self.origin
        stream.queued = 0
        assert LOW_WATER > 0
        self.handler.drained(side)
