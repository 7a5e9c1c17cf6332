"""What channels buffer: few pieces, in the order in which they arrived."""

from __future__ import annotations

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.ssh.channel_buffers import MAX_PIECES, PIECE, SMALL, STEP, hold_in_pieces, write_order

WINDOW = 2 << 20


class Chan:
    """What is used of asyncssh's channels."""

    _accept_data = asyncssh.SSHServerChannel.__mro__[1]._accept_data

    def __init__(self):
        self._recv_buf, self._recv_paused, self._send_state = [], True, "open"
        self._recv_window = WINDOW
        self.delivered, self.opened = [], 0
        hold_in_pieces(self)

    def data_received(self, data, datatype):
        self.delivered.append((data, datatype))

    @property
    def _session(self):
        return self

    def send_packet(self, kind, opened):
        self.opened += int.from_bytes(opened, "big")

    def joined(self, wanted):
        return b"".join(data for data, datatype in self._recv_buf if datatype == wanted)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.sampled_from([None, 1]), st.integers(1, 9_000))))
def test_nothing_is_lost_and_each_kind_keeps_its_order(parts):
    chan, expected = Chan(), {None: b"", 1: b""}
    for data, datatype, times in parts:
        chan._accept_data(data * times, datatype)
        expected[datatype] += data * times
    assert {kind: chan.joined(kind) for kind in expected} == expected
    assert chan._recv_window == WINDOW - sum(map(len, expected.values()))
    assert len(chan._recv_buf) <= MAX_PIECES + 2


@pytest.mark.parametrize("kinds", [[None], [None, 1]])
def test_a_window_of_single_bytes_is_held_in_few_pieces(kinds):
    chan = Chan()
    for number in range(300_000):
        chan._accept_data(b"x", kinds[number % len(kinds)])
    assert len(chan._recv_buf) <= MAX_PIECES + 2
    assert all(len(data) <= PIECE for data, _ in chan._recv_buf) or len(kinds) == 2


def test_what_is_read_is_passed_on_as_it_comes_and_after_the_close_nothing_is_held():
    chan = Chan()
    chan._recv_paused = False
    chan._accept_data(b"now", None)
    assert (chan.delivered, chan._recv_buf) == ([(b"now", None)], [])
    chan._recv_paused, chan._send_state = True, "closed"
    chan._accept_data(b"late", None)
    assert (chan._recv_buf, chan._recv_window) == ([], WINDOW - 3)


def test_a_window_is_opened_by_what_was_passed_on_only():
    """Its peer takes a piece from time to time, and who sends uses all of the window."""
    chan, sent = Chan(), 0
    for _ in range(400):
        while chan._recv_window > 0:
            size = min(32_768, chan._recv_window)
            chan._accept_data(bytes(size), None)
            sent += size
        chan._deliver_data(*chan._recv_buf.pop(0))
        assert sum(len(data) for data, _ in chan._recv_buf) <= WINDOW
    passed = sum(len(data) for data, _ in chan.delivered)
    assert passed - STEP < chan.opened <= passed
    assert sent == WINDOW - chan._recv_window + chan.opened


def test_a_short_output_is_not_answered_and_a_long_one_in_small_steps():
    chan, steps = Chan(), []
    chan._recv_paused = False
    while chan.opened < WINDOW:
        before = chan.opened
        chan._accept_data(bytes(PIECE // 2), None)
        if chan.opened > before:
            steps.append(chan.opened - before)
    assert steps[0] == WINDOW // 4
    assert set(steps[1:]) == {STEP}


class End:
    def __init__(self, name, held):
        self.name, self.peer = name, Chan()
        self.peer._recv_buf = [(bytes(held), None)] if held else []


def test_who_has_little_to_say_comes_first_and_the_others_in_turn():
    ends = [End("a", WINDOW), End("key", 1), End("b", SMALL + 1), End("line", SMALL), End("c", WINDOW)]
    assert [end.name for end in write_order(ends, None)] == ["key", "line", "a", "b", "c"]
    assert [end.name for end in write_order(ends, ends[2])] == ["line", "key", "b", "c", "a"]
    gone = End("gone", 0)
    assert [end.name for end in write_order(ends, gone)] == ["key", "line", "a", "b", "c"]
