"""Channels when the other end is slow, and when descriptors run out."""

import asyncio
import os
import resource
import socket

import pytest

from proxy.poller import Poller
from proxy.session.channel import SocketChannel
from proxy.session.facts import FlowFacts
from proxy.session.messages import Kill, Open, decode_to_inspector
from proxy.stream.handover import Handover

FLOW = FlowFacts("F" * 30, "acme", "connected", "t", "100.96.0.2", 40_000, "192.0.2.1", 80)


class Session:
    """Two sockets that are to be handed over."""

    def __init__(self):
        self.pair, self.is_over = socket.socketpair(), False
        self.is_handed_over = False

    def descriptors(self):
        return [each.fileno() for each in self.pair]


class Ends:
    """A channel whose far end reads nothing until `read` is set."""

    def __init__(self, loop):
        near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.poller = Poller(loop)
        self.channel = SocketChannel(near, self.poller, decode_to_inspector, lambda *_: None, lambda: None)
        self.opened, self.others = [], 0

    def read(self):
        """All that has come so far."""
        self.far.setblocking(False)
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.far, 1 << 16, 2)
            except BlockingIOError:
                return
            for each in descriptors:
                os.close(each)
            message = decode_to_inspector(data)
            if isinstance(message, Open):
                assert len(descriptors) == 2
                self.opened.append(message.session)
            else:
                self.others += 1

    async def read_until(self, condition):
        async with asyncio.timeout(20):
            while not condition():
                self.read()
                await asyncio.sleep(0.005)

    def close(self):
        self.channel.close()
        self.far.close()
        self.poller.close()


@pytest.fixture
def few_descriptors():
    """Room for 40 more than there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def all_that_are_left():
    """Descriptors, until there are no more."""
    hoard = []
    while True:
        try:
            hoard.append(os.dup(0))
        except OSError:
            return hoard


def test_sessions_wait_for_a_slow_inspector_without_copies_and_in_order(few_descriptors):
    async def main():
        ends = Ends(asyncio.get_running_loop())
        handover, session = Handover(ends.channel, ends.poller), Session()
        for number in range(5_000):
            handover.add(session, Open(number, FLOW, "tls"))
        assert len(handover) > 100  # the far end reads nothing yet
        gone = Session()
        handover.add(gone, Open(5_000, FLOW, "tls"))
        handover.add(session, Open(5_001, FLOW, "tls"))
        gone.is_over = True
        for each in gone.pair:
            each.close()
        await ends.read_until(lambda: not handover and len(ends.opened) == 5_001)
        assert ends.opened == [*range(5_000), 5_001]
        assert ends.channel.send(Kill(1))
        await ends.read_until(lambda: ends.others == 1)
        ends.close()
        for each in session.pair:
            each.close()

    asyncio.run(main())


def test_what_cannot_be_copied_is_said_and_not_lost_in_silence(few_descriptors):
    async def main():
        ends, session = Ends(asyncio.get_running_loop()), Session()
        while not ends.channel.is_full:
            assert ends.channel.send(Open(0, FLOW, "tls"), session.descriptors())
        hoard = all_that_are_left()
        assert not ends.channel.send(Open(1, FLOW, "tls"), session.descriptors())
        for each in hoard:
            os.close(each)
        assert ends.channel.send(Open(2, FLOW, "tls"), session.descriptors())
        await ends.read_until(lambda: ends.opened[-1:] == [2])
        assert 1 not in ends.opened
        ends.close()
        for each in session.pair:
            each.close()

    asyncio.run(main())
