"""The loop: packets of several rings in the order of their times, and everything that may end a capture."""

from __future__ import annotations

import os
import signal
import socket
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from oxyctl.capture.ring import Packet
from oxyctl.capture.session import HOLD_NS, End, Session, stop_requests
from oxyctl.capture.sinks import ReaderGone
from oxyctl.errors import OxyctlError


class FakeRing:
    """What a test puts in comes out; `errors` counts those that were acknowledged."""

    def __init__(self, number):
        self.number, self.received, self.dropped, self.errors, self.taken = number, 0, 0, 0, 0
        self.interface = SimpleNamespace(title=f"node{number}:eth0")
        self.socket, self._other = socket.socketpair()
        self.held = []

    def put(self, *times):
        self.held += [Packet(at, self.number, b"abc", 5, False, True) for at in times]
        self._other.send(b"x")

    def read(self):
        found, self.held = self.held, []
        if found:
            self.socket.recv(100)
        return found

    def count(self):
        self.received = self.dropped = 1

    def acknowledge_error(self):
        self.errors += 1
        return 0

    def close(self):
        self.socket.close()
        self._other.close()


class Taken:
    """A writer that remembers; `after` packets it fails with `error`."""

    def __init__(self):
        self.taken, self.error = [], None

    def packets(self, packets):
        if self.error:
            raise self.error
        self.taken += packets


@pytest.fixture
def fds():
    """An eventfd that asks to end, and one that says that the lab has."""
    made = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    yield made
    for fd in made:
        os.close(fd)


@pytest.fixture
def rings():
    made = [FakeRing(0), FakeRing(1)]
    yield made
    for ring in made:
        ring.close()


@pytest.fixture
def writer():
    return Taken()


@pytest.fixture
def session(rings, writer, fds):
    return Session(rings, writer, *fds)


def nothing():
    return None


def test_packets_come_in_the_order_of_their_times(session, rings, writer):
    now = time.time_ns()
    rings[1].put(now - 3, now - 1)
    rings[0].put(now - 4, now - 2)
    assert session.run(4, None, nothing) == End.COUNT
    assert [packet.time_ns - now for packet in writer.taken] == [-4, -3, -2, -1]
    assert (session.delivered, session.bytes) == ([2, 2], [10, 10])
    assert [ring.dropped for ring in rings] == [1, 1]


def test_a_packet_waits_for_an_older_one_that_is_still_on_its_way(session, rings, writer):
    def read():
        """The younger one is read first, and the older one has only just arrived."""
        rings[0].read = list
        now = time.time_ns()
        rings[1].put(now - 1)
        rings[0].socket.recv(1)
        return [Packet(now, 0, b"abc", 5, False, True)]

    rings[0].read = read
    rings[0].put()
    assert session.run(2, None, nothing) == End.COUNT
    assert [packet.number for packet in writer.taken] == [1, 0]


def test_no_more_than_were_asked_for(session, rings, writer):
    rings[0].put(*range(1, 10))
    assert session.run(3, None, nothing) == End.COUNT
    assert [packet.time_ns for packet in writer.taken] == [1, 2, 3]


def test_the_time_is_up(session, rings, writer):
    rings[0].put(1)
    start = time.monotonic()
    assert session.run(None, 0.05, nothing) == End.DURATION
    assert 0.05 <= time.monotonic() - start < 5
    assert len(writer.taken) == 1


def test_what_passed_before_the_end_is_there_and_what_came_after_is_not(session, rings, writer, fds):
    os.eventfd_write(fds[0], 1)
    rings[0].put(5, time.time_ns() + HOLD_NS * 1000)
    assert session.run(None, None, nothing) == End.REQUESTED
    assert [packet.time_ns for packet in writer.taken] == [5]


def test_packets_that_the_kernel_has_counted_are_waited_for(session, rings, writer, fds):
    """The kernel hands its last block over in time, unless the processor that does it is busy."""
    now = time.time_ns()

    def count():
        rings[1].received, rings[1].dropped = 2, 1

    def read():
        if time.time_ns() < now + 2 * HOLD_NS:
            return []
        rings[1].taken, rings[1].read = 1, list
        return [Packet(now, 1, b"abc", 5, False, True)]

    rings[1].count, rings[1].read = count, read
    rings[1].put()  # which nobody reads: each poll returns at once
    os.eventfd_write(fds[0], 1)
    assert session.run(None, None, nothing) == End.REQUESTED
    assert [packet.time_ns for packet in writer.taken] == [now]


def test_the_end_of_the_lab_is_the_end(session, rings, writer, fds):
    rings[1].put(5)
    os.eventfd_write(fds[1], 1)
    assert session.run(None, None, nothing) == End.LAB
    assert len(writer.taken) == 1


def test_a_reader_that_goes_away_while_nothing_is_written(session):
    reader, out = os.pipe()
    session.watch(out)
    os.close(reader)
    assert session.run(None, None, nothing) == End.READER
    os.close(out)


def test_a_reader_that_goes_away_while_something_is(session, rings, writer):
    writer.error = ReaderGone()
    rings[0].put(1)
    assert session.run(None, None, nothing) == End.READER
    assert session.delivered == [0, 0]


def test_no_room_is_no_end_but_a_failure(session, rings, writer):
    writer.error = OxyctlError("the disk is full")
    rings[0].put(1)
    with pytest.raises(OxyctlError, match="full"):
        session.run(None, None, nothing)
    assert [ring.dropped for ring in rings] == [1, 1]


def test_an_interface_that_goes_down_does_not_end_a_capture(session, rings, writer):
    rings[0]._other.close()  # EPOLLHUP, as a socket of a device that is gone
    rings[1].put(1)
    assert session.run(1, None, nothing) == End.COUNT


def test_the_report_is_called_in_time(session, fds):
    calls = []

    def tick():
        calls.append(time.monotonic())
        if len(calls) == 4:
            os.eventfd_write(fds[0], 1)
        return 0.01

    assert session.run(None, None, tick) == End.REQUESTED
    assert all(later - earlier >= 0.01 for earlier, later in pairwise(calls[:4]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_ask_it_to_end(rings, writer, fds, number):
    before = signal.getsignal(number)
    with stop_requests() as wake:
        session = Session(rings, writer, wake, fds[1])
        os.kill(os.getpid(), number)
        assert session.run(None, None, nothing) == End.REQUESTED
    assert signal.getsignal(number) == before
