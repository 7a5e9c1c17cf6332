"""The same ports again: SYN, FIN and RST in every order on a tuple that still has a flow, and then a host that dials.

The origin is a kernel that echoes; the client is by hand, and does what a kernel does that dials (RFC 9293 3.10.7.3).
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

from tests.netns import needs_root
from tests.packets import decode, network, parsed
from tests.running import ORIGIN

pytestmark = [pytest.mark.netns, needs_root]

MODULUS = 1 << 32
EVENTS = ("SYN", "new SYN", "FIN", "RST", "far RST", "data")
BEFORE = ("SYN sent", "established", "half-closed", "closed")
SILENCE_S = 0.3  # then a SYN is repeated
DIALS = 12


class Caller:
    """One port of a client; `isn` of the connection that it knows, and what it has sent and seen of it."""

    def __init__(self, tunnel, version, port, there):
        self.tunnel, self.version, self.port, self.there = tunnel, version, port, there
        self.isn, self.next, self.seen = 1_000_000, 0, 0

    def send(self, flags, payload=b"", *, seq, ack=0, again=1):
        segment = TCP(sport=self.port, dport=self.there, flags=flags, seq=seq % MODULUS, ack=ack % MODULUS)
        here = self.tunnel.addresses[self.version]
        packet = bytes(network(self.version, here, ORIGIN[self.version]) / segment / Raw(payload))
        self.tunnel.send(*[packet] * again)

    def event(self, name, again):
        """Say this, whatever has been said before; `again`: so many times."""
        at = self.isn + 1 + self.next
        if name == "SYN":
            self.send("S", seq=self.isn, again=again)
        elif name == "new SYN":
            self.send("S", seq=self.isn + 700_000_000, again=again)
        elif name == "FIN":
            self.send("FA", seq=at, ack=self.seen, again=again)
        elif name == "RST":
            self.send("R", seq=at, again=again)
        elif name == "far RST":
            self.send("R", seq=at + 500_000_000, again=again)
        else:
            self.send("PA", b"data", seq=at, ack=self.seen, again=again)

    def replies(self):
        """Segments that come, until nothing does for a while: then None."""
        self.tunnel.sock.settimeout(SILENCE_S)
        while True:
            try:
                packet = self.tunnel.receive()
            except TimeoutError:
                yield None
                continue
            found = parsed(packet)
            if found.protocol == 6 and decode(packet)[TCP].dport == self.port:
                yield decode(packet)[TCP]

    def dial(self, isn):
        """Connect from this port, as a kernel would."""
        self.isn, self.next, sent = isn, 0, 1
        self.send("S", seq=isn)
        for segment in self.replies():
            if segment is None:
                assert sent < DIALS, "no answer"
                sent += 1
                self.send("S", seq=isn)
            elif segment.flags.A and segment.ack != (isn + 1) % MODULUS:
                if not segment.flags.R:
                    self.send("R", seq=segment.ack)
            elif segment.flags.R:  # without ACK it answers something earlier
                assert not segment.flags.A, "refused"
            elif segment.flags.S:
                self.seen = segment.seq + 1
                self.send("A", seq=isn + 1, ack=self.seen)
                return

    def ask(self, question):
        """Say something, and hear the same."""
        self.send("PA", question, seq=self.isn + 1 + self.next, ack=self.seen)
        self.next += len(question)
        heard = b""
        for segment in self.replies():
            assert segment is not None, f"no answer, {heard!r}"
            assert not segment.flags.R or segment.seq != self.seen % MODULUS, "reset"
            if segment.seq == self.seen % MODULUS and (data := bytes(segment.payload)):
                heard += data
                self.seen += len(data)
                self.send("A", seq=self.isn + 1 + self.next, ack=self.seen)
            if heard == question:
                return


@pytest.fixture
def echo(stage, version):
    """The port of a kernel that answers all that it is told."""
    listener = stage.listen(version, backlog=1000)

    def answer(sock):
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(1000):
                sock.sendall(data)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=answer, args=(sock,), daemon=True).start()

    listener.settimeout(None)
    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    serving.join()


def prepare(caller, before):
    if before == "SYN sent":
        caller.send("S", seq=caller.isn)
        return
    caller.dial(caller.isn)
    caller.ask(b"first")
    if before in ("half-closed", "closed"):
        caller.send("FA", seq=caller.isn + 1 + caller.next, ack=caller.seen)
        caller.next += 1
    if before == "closed":
        for segment in caller.replies():
            if segment is not None and segment.flags.F:
                caller.seen += 1
                caller.send("A", seq=caller.isn + 1 + caller.next, ack=caller.seen)
                return


@pytest.mark.slow
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("again", [1, 2], ids=["once", "twice"])
def test_whatever_was_said_before_a_new_connection_is_had(stage, client, version, echo, before, again):
    for number, order in enumerate(itertools.permutations(EVENTS, 2)):
        caller = Caller(client, version, stage.port, echo)
        prepare(caller, before)
        for name in order:
            caller.event(name, again)
        caller.dial(2_000_000_000 + number)
        caller.ask(b"second, after " + ", ".join(order).encode())


@pytest.mark.parametrize("name", ["SYN", "new SYN", "far RST"])
def test_what_a_stranger_could_say_ends_no_connection(stage, client, version, echo, name):
    """A SYN on an established connection is challenged, whatever its number (RFC 9293 3.10.7.4)."""
    caller = Caller(client, version, stage.port, echo)
    caller.dial(caller.isn)
    caller.ask(b"before")
    caller.event(name, 3)
    caller.ask(b"after")
