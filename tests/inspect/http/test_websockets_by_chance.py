"""WebSockets by chance, in all pairings of versions: what was said arrives unharmed, ends behind it, nothing waits.

Piece by piece, in any order, with windows of any size, past ends that stop reading, and a hook that takes its time.
`HYPOTHESIS_PROFILE=long` tries more of them.
"""

import contextlib
import random

import h2.exceptions
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.inspect.http.frames import close_frame
from tests.inspect.http.ends_ws import DEFLATE, NO_CONTEXT, Browser1, Browser2, Origin1, Origin2, Said, Speech
from tests.inspect.http.network import Net
from tests.inspect.http.talk import tls

HOOK = "websocket_message"
SIZES = st.one_of(st.integers(0, 100), st.integers(0, 5_000), st.sampled_from([125, 126, 65_535, 65_536]),
                  st.integers(0, 300_000))  # fmt: skip
WINDOWS = st.sampled_from([0, 1, 1_000, 65_535, 1 << 20])
CODES = st.sampled_from([None, 0, 1_000, 1_001, 3_000, 4_999])
EXTENSIONS = st.sampled_from([b"", b"", DEFLATE, DEFLATE + NO_CONTEXT])
MOST_HELD = 1 << 20  # bytes in one direction: what two windows, and a queue, hold
few = settings(max_examples=settings.default.max_examples // 4)
pairs = pytest.mark.parametrize(
    ("client", "origin"), [(client, origin) for client in ("h1", "h2") for origin in ("h1", "h2")]
)


@st.composite
def speeches(draw, mask):
    messages = st.builds(
        Said,
        is_text=st.booleans(),
        size=SIZES,
        cuts=st.lists(st.floats(0, 1), max_size=4),
        pings=st.lists(st.binary(max_size=125), max_size=3),
        is_deflated=st.booleans(),
    )
    return Speech(draw(st.lists(messages, max_size=6)), draw(CODES), mask)


class Asked(Net):
    """A net whose hook remembers what it has read."""

    def __init__(self, *arguments, **more):
        self.read = {True: [], False: []}
        self.held = 0
        super().__init__(*arguments, **more)

    def ask(self, hook, argument, then):
        if hook == HOOK:
            self.read[argument.from_client].append(argument.data)
        super().ask(hook, argument, then)

    def some(self, **more):
        moved = super().some(**more)
        for exchange in self.handler._exchanges.values():
            if exchange.websocket is not None:
                for each in (exchange.websocket.client, exchange.websocket.origin):
                    self.held = max(self.held, sum(len(data) for data, _ in each.waiting))
        return moved


def net_of(client, origin, sides, extensions, windows, has_hook, seed):
    chance = random.Random(seed + 1)
    said = [side.encoded(deflates=bool(extensions), keeps_context=b";" not in extensions) for side in sides]

    def client_end(wire):
        if client == "h2":
            return Browser2(wire, chance, said[0], extensions, window=windows[0])
        return Browser1(wire, chance, said[0], extensions)

    def origin_end(wire):
        if origin == "h2":
            return Origin2(wire, chance, said[1], extensions, window=max(windows[1], 65_535))
        return Origin1(wire, chance, said[1], extensions)

    names = {"h1": "http/1.1", "h2": "h2"}
    hooks = {HOOK: "later"} if has_hook else {}
    net = Asked(seed, tls(names[client]), tls(names[origin]), client_end, origin_end, hooks=hooks)
    if origin == "h2":
        net.origin.bring(1 << 20)  # its settings, without which a client of HTTP/1.1 would have another connection
        net.handler.settle()
    return net, said


def happen(net, count):
    for _ in range(count):
        if net.chance.random() < 0.1:
            wire = net.chance.choice(net.wires)
            wire.takes = not wire.takes
        if not net.some():
            break


def expected(side):
    return [said.data for said in side.messages]


@pairs
@few
@given(
    speeches(b"\x01\x92\x03\xf4"), speeches(None), EXTENSIONS, st.tuples(WINDOWS, WINDOWS), st.booleans(),
    st.integers(0, 1 << 32),
)  # fmt: skip
def test_all_arrives_and_each_end_is_told(client, origin, of_client, of_origin, extensions, windows, has_hook, seed):
    sides = of_client, of_origin
    net, said = net_of(client, origin, sides, extensions, windows, has_hook, seed)
    happen(net, net.chance.choice([0, 10, 100, 1_000]))
    net.calm()
    [record] = net.records
    assert bytes(net.origins[0].ears) == said[0]
    assert bytes(net.browser.ears) == said[1]
    assert (net.origins[0].has_heard_end, net.browser.has_heard_end) == (True, True)
    assert not net.browser.was_refused
    assert (net.origins[0].was_broken_off, net.browser.was_broken_off) == (False, False)
    assert (record.upgrade, record.fault) == ("websocket", None)
    assert (record.client_messages, record.origin_messages) == tuple(len(side.messages) for side in sides)
    assert net.handler._active == 0
    if has_hook:
        assert net.read == {True: expected(of_client), False: expected(of_origin)}
    assert max(net.held, net.client.most, net.origin.most) < MOST_HELD


def drain(net):
    net.handler.drain()


def reset(net, wire):
    """The far end is gone, at once."""
    wire.end_.is_over = True
    wire.reset()


def close(net, wire):
    """Both halves, whatever is still to come."""
    wire.end_.has_said_end = wire.far_has_ended = True


def reset_stream(net, wire):
    """Of HTTP/2."""
    end = wire.end_
    if hasattr(end, "peer") and end.is_open and not (end.has_said_end and end.has_heard_end) and not end.was_broken_off:
        end.has_said_end = end.was_broken_off = True
        with contextlib.suppress(h2.exceptions.ProtocolError):
            end.peer.h2.reset_stream(1, 8)
        end.send(end.peer.out())


FAULTS = [
    drain, lambda net: reset(net, net.client), lambda net: reset(net, net.origin), lambda net: close(net, net.client),
    lambda net: close(net, net.origin), lambda net: reset_stream(net, net.client),
    lambda net: reset_stream(net, net.origin),
]  # fmt: skip


def is_part(heard, said, *, is_masked):
    """Whether it is what was said, as far as it came, and maybe the proxy's own farewell behind it."""
    heard = bytes(heard)
    return said.startswith(heard.removesuffix(close_frame(1001, "the proxy ends", is_masked=is_masked)))


@pairs
@few
@given(
    speeches(b"\x01\x92\x03\xf4"), speeches(None), EXTENSIONS, st.tuples(WINDOWS, WINDOWS), st.booleans(),
    st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3), st.integers(0, 1 << 32),
)  # fmt: skip
def test_what_breaks_off_is_told_and_nothing_waits(
    client, origin, of_client, of_origin, extensions, windows, has_hook, faults, seed
):
    sides = of_client, of_origin
    net, said = net_of(client, origin, sides, extensions, windows, has_hook, seed)
    for fault in faults:
        happen(net, net.chance.choice([0, 10, 30, 100, 1_000]))
        if net.finished is None:
            fault(net)
            net.handler.settle()
    net.calm()
    assert is_part(net.origins[0].ears, said[0], is_masked=True)
    assert is_part(net.browser.ears, said[1], is_masked=False)
    net.wait(4_000)
    net.calm()
    net.wait(5_000)
    assert net.handler._active == 0
    assert net.finished is not None
    assert len(net.records) == net.handler._number
    if has_hook:
        for from_client, side in ((True, of_client), (False, of_origin)):
            read = net.read[from_client]
            assert read == expected(side)[: len(read)]
    assert max(net.held, net.client.most, net.origin.most) < MOST_HELD
