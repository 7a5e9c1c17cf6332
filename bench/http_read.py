"""The cost of inspecting HTTP/1.1: a request and its response through a conversation, compared with h11. In memory.

No sockets, TLS or topology: only the time spent in Python for one request. In alternation, h11 parses the same bytes
and writes them for the other side, which is the minimum for a proxy based on that library.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import h11

from bench.series import Figure, Sample, alternate
from bench.topology import Topology
from proxy.inspect.http.conversation import Conversation
from proxy.inspect.stream import SessionView, Side
from proxy.session.facts import FlowFacts

REQUESTS, QUICK_REQUESTS = 5_000, 1_000
PARSED, READ = "h11 alone", "a conversation"
PER_REQUEST = "us a request"
MOST = 0.75  # maximum ratio to the time of h11's parsers alone: plain heads are parsed without them
ASK = b"GET /index.html HTTP/1.1\r\nHost: web.lab\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Sat, 28 Nov 2026 01:00:00 GMT\r\nContent-Type: text/plain\r\n"
    b'Content-Length: 1024\r\nETag: "a"\r\nConnection: keep-alive\r\n\r\n' + b"x" * 1024
)


class _Stream:
    """A side that accepts all writes."""

    tls = None
    queued = 0

    def write(self, data: bytes) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class _Session:
    """A session without policies and hooks, which only counts records."""

    flow = FlowFacts("F", "acme", "connected", "t", "100.96.0.2", 40_000, "192.0.2.1", 80)

    def __init__(self) -> None:
        self.client, self.origin, self.recorded = _Stream(), _Stream(), 0

    def now(self) -> float:
        return time.monotonic()

    def arm(self, seconds: float | None) -> None: ...

    def has(self, hook: str) -> bool:
        return False

    def judge(self, phase: str, facts: Any) -> None:
        return None

    def record(self, child: Any) -> None:
        self.recorded += 1


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure("http_read", "HTTP/1.1 that is read, on one core, in memory; 1 KiB, kept alive", (PARSED,))
    count = QUICK_REQUESTS if quick else REQUESTS
    alternate(figure, 2 if quick else 5, [(PARSED, _timed(_parse, count)), (READ, _timed(_read, count))])
    times = figure.median(READ, PER_REQUEST) / figure.median(PARSED, PER_REQUEST)
    figure.aim("of the time of h11 alone", times, MOST, at_most=True)
    return figure


def _timed(work: Callable[[int], None], count: int) -> Callable[[], Sample]:
    def run() -> Sample:
        began = time.process_time()
        work(count)
        return {PER_REQUEST: (time.process_time() - began) / count * 1e6}

    return run


def _read(count: int) -> None:
    session = _Session()
    conversation = Conversation(cast(SessionView, session))
    conversation.start()
    for _ in range(count):
        conversation.received(Side.CLIENT, ASK)
        conversation.received(Side.ORIGIN, ANSWER)
    assert session.recorded == count


def _parse(count: int) -> None:
    client, origin = h11.Connection(h11.SERVER), h11.Connection(h11.CLIENT)
    for _ in range(count):
        client.receive_data(ASK)
        _forward(client, origin)
        origin.receive_data(ANSWER)
        _forward(origin, client)
        client.start_next_cycle()
        origin.start_next_cycle()


def _forward(source: h11.Connection, sink: h11.Connection) -> bytes:
    parts = []
    while True:
        event = source.next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            break
        parts.append(sink.send(cast(h11.Event, event)) or b"")
        if type(event) is h11.EndOfMessage:
            break
    return b"".join(parts)
