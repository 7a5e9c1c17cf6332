"""Urgent bytes: each arrives in its place, and urgent, whichever side marked it (RFC 9293 3.8.5, RFC 6093)."""

from __future__ import annotations

import pytest

from tests.netns import needs_root
from tests.packet.conformance.ends import Connection

pytestmark = [pytest.mark.netns, needs_root]


def marked(end, size):
    """So many bytes as they arrive at `end`, and where among them urgent ones were, as the last pointers said."""
    data, places, begin = b"", set(), end.seen
    while len(data) < size:
        segment = end.segment()
        at, part = end.relative(segment.seq, end.their_isn), bytes(segment.payload)
        if segment.flags.U:
            places.add(at + segment.urgptr - 1 - begin)
        if at != end.seen or not part:
            continue
        data += part
        end.seen += len(part)
        end.sends("A")
    return data, places


@pytest.fixture(params=["client", "origin"])
def ends(request, stage, client, version):
    """Who speaks, and who listens."""
    c = Connection(stage, client, version)
    c.established()
    return (c.client, c.origin) if request.param == "client" else (c.origin, c.client)


def test_urgent_byte_is_urgent_at_the_other_side(ends):
    speaker, listener = ends
    speaker.sends("PA", b"abc")
    assert marked(listener, 3) == (b"abc", set())
    speaker.sends("PAU", b"X", urgptr=1)
    assert marked(listener, 1) == (b"X", {0})
    speaker.sends("PA", b"def")
    assert marked(listener, 3) == (b"def", set())


def test_all_in_one_segment(ends):
    speaker, listener = ends
    speaker.sends("PAU", b"abcXdef", urgptr=4)
    assert marked(listener, 7) == (b"abcXdef", {3})


def test_pointer_beyond_the_segment_marks_a_byte_to_come(ends):
    speaker, listener = ends
    speaker.sends("PAU", b"abc", urgptr=6)
    assert marked(listener, 3)[0] == b"abc"
    speaker.sends("PAU", b"deXf", urgptr=3)
    assert marked(listener, 4) == (b"deXf", {2})


def test_pointer_to_what_never_comes_loses_nothing(ends):
    speaker, listener = ends
    speaker.sends("PAU", b"abc", urgptr=60_000)
    assert marked(listener, 3)[0] == b"abc"
    speaker.sends("PA", b"def")
    assert marked(listener, 3)[0] == b"def"
    speaker.sends("FA")
    listener.awaits("F")


def test_pointer_of_zero_and_flag_without_data_lose_nothing(ends):
    speaker, listener = ends
    speaker.sends("AU", urgptr=0)
    speaker.sends("PAU", b"abc", urgptr=0)
    assert marked(listener, 3)[0] == b"abc"
    speaker.sends("PA", b"def")
    assert marked(listener, 3)[0] == b"def"


def test_second_mark_before_the_first_was_read_loses_neither_byte(ends):
    speaker, listener = ends
    speaker.sends("PAU", b"aX", urgptr=2)
    speaker.sends("PAU", b"bY", urgptr=2)
    data, places = marked(listener, 4)
    assert data == b"aXbY"
    assert 3 in places
