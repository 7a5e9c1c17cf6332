"""Windows that widen: within what a connection has to spare, and what all connections share."""

import pytest

from proxy.inspect.http.h2_windows import MIN_STEP, SharedBudget, Windows
from proxy.inspect.http.limits import Limits

FIRST, MOST, SPARE = 64 << 10, 1 << 20, 512 << 10
LIMITS = Limits(window_bytes=FIRST, spare_window_bytes=SPARE)


class Stream:
    """As much of a stream as its window needs."""

    def __init__(self, number):
        self.number = number
        self.reopened = self.extra = self.borrowed = 0

    @property
    def window(self):
        return FIRST + self.extra


class Connection:
    def __init__(self, shared, *, borrows=True):
        self.at_end = []
        self.widened = []
        self.is_open = True
        self.windows = Windows(LIMITS, MOST, self.widen, self.at_end.append if borrows else None, shared)

    def widen(self, number, size):
        if self.is_open:
            self.widened.append((number, size))
        return self.is_open

    def upload(self, stream, size=4 << 20):
        while size:
            self.windows.count(stream, min(size, MIN_STEP))
            size -= min(size, MIN_STEP)
        return stream


def test_a_window_doubles_each_time_that_more_has_passed_than_it_holds():
    connection = Connection(SharedBudget(1 << 30))
    stream = connection.upload(Stream(1), FIRST)
    assert connection.widened == []
    connection.upload(stream)
    assert connection.widened == [(1, size << 10) for size in (64, 128, 256, 512)]
    assert stream.window == MOST


@pytest.mark.parametrize("borrows", [True, False])
def test_streams_share_what_their_connection_has_to_spare(borrows):
    connection = Connection(SharedBudget(0), borrows=borrows)
    streams = [connection.upload(Stream(number), 256 << 10) for number in (1, 3, 5)]
    assert MOST > streams[0].window >= streams[1].window > streams[2].window > FIRST
    assert sum(stream.extra for stream in streams) + connection.windows.spare == SPARE
    for stream in streams:
        connection.windows.ended(stream)
    assert connection.windows.spare == SPARE


def test_connections_share_what_there_is_beyond_that_and_give_it_back():
    shared = SharedBudget(2 << 20)
    connections = [Connection(shared) for _ in range(5)]
    streams = [connection.upload(Stream(1)) for connection in connections]
    assert [stream.window for stream in streams[:2]] == [MOST, MOST]
    assert all(stream.window > FIRST for stream in streams)
    assert 0 < shared.available == (2 << 20) - sum(stream.borrowed for stream in streams)
    connections[0].windows.ended(streams[0])
    connections[0].upload(streams[0])
    for connection, stream in zip(connections[:3], streams, strict=False):
        connection.windows.ended(stream)
    for connection in connections:
        for function in connection.at_end:
            function()
    for connection, stream in zip(connections, streams, strict=True):
        connection.windows.ended(stream)
    assert shared.available == 2 << 20
    assert max(len(connection.at_end) for connection in connections) == 1


def test_a_stream_that_is_closed_takes_nothing():
    shared = SharedBudget(2 << 20)
    connection = Connection(shared)
    connection.is_open = False
    connection.upload(Stream(1))
    assert (connection.windows.spare, shared.available, connection.at_end) == (SPARE, 2 << 20, [])
