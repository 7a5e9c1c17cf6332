"""Whatever a client or an origin sends as HTTP: no exception, bounded memory, one record for each request, one end."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.inspect.http.h2_wire import STREAM_HIGH_WATER
from proxy.inspect.http.limits import HIGH_WATER
from proxy.inspect.stream import Side
from tests.fuzz import corpus
from tests.fuzz.readers import read_as
from tests.inspect.http.h2_peer import REQUEST, Peer
from tests.inspect.http.talk import Talk, tls
from tests.inspect.http.test_h1 import BAD, GET, OK, post
from tests.inspect.http.test_websocket import ASK, KEY, YES, accept_of, client, server

CHUNKED = post(b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\nX: y\r\n\r\n")
SLOWHTTPTEST = [  # the openings of its four attacks
    b"GET / HTTP/1.1\r\nHost: h\r\nX-a: b\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8192\r\n\r\nfoo=bar",
    b"GET / HTTP/1.1\r\nHost: h\r\nRange: bytes=0-" + b",".join(b"5-%d" % i for i in range(1000)) + b"\r\n\r\n",
    b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n" * 30,
]
PLAIN_1 = [GET, CHUNKED, post(b"Content-Length: 5", body=b"hello"), ASK + b"\r\n", *SLOWHTTPTEST, *(b[0] for b in BAD)]
CLIENT_1 = [*PLAIN_1, *corpus.HTTP_1_REQUESTS]
ORIGIN_1 = [
    OK,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    YES + b"Sec-WebSocket-Accept: " + accept_of(KEY) + b"\r\n\r\n" + server() + server(b"\x03\xe8", 8),
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    *corpus.HTTP_1_RESPONSES,
]
CORPUS_WS = [
    client(), client(b"x" * 200, 2), client(first=0) + client(opcode=0), client(b"\x03\xe8", 8),
    *corpus.WEBSOCKET_CLIENT,
]  # fmt: skip


def mutated(data, seed):
    """`data` with bytes changed, left out, repeated or moved."""
    chance, out = random.Random(seed), bytearray(data)
    for _ in range(chance.randrange(4)):
        if not out:
            break
        at, size = chance.randrange(len(out)), chance.randrange(1, 9)
        match chance.randrange(5):
            case 0:
                out[at] = chance.randrange(256)
            case 1:
                del out[at : at + size]
            case 2:
                out[at:at] = out[at : at + size] * chance.randrange(1, 200)
            case 3:
                out[at:at] = chance.choice([b"\r\n", b"\n", b"\0", b"\r", b": ", b"\r\n\r\n", b"\xff" * 9])
            case 4:
                del out[at:]
    return bytes(out)


def feed(talk, side, data, seed):
    chance, start = random.Random(seed), 0
    while start < len(data):
        size = chance.choice([1, 2, 7, 60, 4096])
        if talk.finished is None:
            talk.handler.received(side, data[start : start + size])
        start += size


def ends(talk):
    """Time goes by until the session is over; then everything is settled."""
    for _ in range(400):
        if talk.finished is not None:
            break
        talk.wait(60)
    assert talk.finished is not None
    assert talk.handler._active == 0
    numbers = [record.request_id for record in talk.records]
    assert len(set(numbers)) == len(numbers) == talk.handler._number


seeds = st.integers(0, 2**32)
fuzzed = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@fuzzed
@given(st.sampled_from(CLIENT_1), st.sampled_from(CLIENT_1), st.sampled_from(ORIGIN_1), seeds)
def test_http_1_in_both_directions(first, second, answer, seed):
    talk = Talk()
    feed(talk, Side.CLIENT, mutated(first, seed) + mutated(second, seed + 1), seed)
    feed(talk, Side.ORIGIN, mutated(answer, seed + 2), seed)
    if seed % 3 and talk.finished is None:
        talk.handler.ended(Side.ORIGIN if seed % 3 == 1 else Side.CLIENT)
    ends(talk)


@fuzzed
@given(st.sampled_from(CLIENT_1), st.sampled_from(CLIENT_1), seeds)
def test_whatever_goes_on_is_read_alike(first, second, seed):
    talk, heard = Talk(), b""
    feed(talk, Side.CLIENT, mutated(first, seed) + mutated(second, seed + 1), seed)
    for _ in range(4):
        heard += talk.origin.take()
        if talk.finished is None and talk.handler._active and not talk.handler._front.exchange.is_switched:
            talk.answer(OK)
    if b"HTTP/1.1\r\n" in heard and b"Upgrade" not in heard and b"CONNECT" not in heard:
        assert read_as(heard, "length") == read_as(heard, "chunks")
        assert len(read_as(heard, "length")) <= talk.handler._number


@fuzzed
@given(
    st.lists(st.sampled_from(CORPUS_WS), max_size=6),
    st.sampled_from([b"", *corpus.WEBSOCKET_ORIGIN]),
    st.booleans(),
    seeds,
)
def test_websocket_frames(parts, odd, has_hook, seed):
    talk = Talk(hooks={"websocket_message": lambda message: None} if has_hook else {})
    talk.say(ASK + b"\r\n")
    talk.answer(ORIGIN_1[4])
    feed(talk, Side.CLIENT, mutated(b"".join(parts), seed), seed)
    feed(talk, Side.ORIGIN, mutated(server(b"x" * 300) + odd, seed), seed)
    ends(talk)


def h2_bytes():
    """What a well-behaved client of HTTP/2 sends."""
    peer = Peer(is_client=True)
    parts = [peer.out(), peer.headers(1, REQUEST), peer.headers(3, REQUEST, end=False), peer.data(3, b"x" * 900)]
    peer.h2.reset_stream(3, 8)
    parts += [peer.out(), peer.headers(5, [*REQUEST, (b"a", b"b" * 99)], end=False), peer.data(5, b"y", end=True)]
    peer.h2.ping(b"12345678")
    peer.h2.increment_flow_control_window(1000)
    return b"".join([*parts, peer.out()])


H2_CLIENT = h2_bytes()


odd_frames = st.lists(st.sampled_from(corpus.HTTP_2_FRAMES), max_size=4).map(b"".join)


@fuzzed
@given(seeds, st.booleans(), odd_frames)
def test_http_2_of_a_client(seed, origin_is_h2, odd):
    talk = Talk(tls("h2"), tls("h2" if origin_is_h2 else "http/1.1"))
    feed(
        talk, Side.CLIENT, H2_CLIENT[:24] + (mutated(H2_CLIENT[24:], seed) if seed % 2 else H2_CLIENT[24:]) + odd, seed
    )
    ends(talk)


@fuzzed
@given(seeds, odd_frames)
def test_http_2_of_an_origin(seed, odd):
    talk = Talk(tls("http/1.1"), tls("h2"))
    peer = Peer(is_client=False)
    peer.hear(talk.say(GET))
    out = peer.out() + peer.headers(1, [(b":status", b"200")], end=False) + peer.data(1, b"z" * 500, end=True)
    feed(talk, Side.ORIGIN, odd + mutated(out, seed) if seed % 2 else mutated(out, seed) + odd, seed)
    ends(talk)


@pytest.mark.parametrize("version", ["http/1.1", "h2"])
def test_memory_is_bounded_when_a_client_sends_and_does_not_read(version):
    talk = Talk(tls(version), tls("http/1.1"))
    talk.origin.takes = talk.client.takes = False
    if version == "h2":
        peer = Peer(is_client=True)
        peer.hear(talk.say(peer.out()) or talk.client.take())
        talk.say(peer.headers(1, REQUEST, end=False))
        sent = 0
        while (room := min(peer.h2.local_flow_control_window(1), 16_384)) > 0:
            talk.say(peer.data(1, b"x" * room))
            peer.hear(talk.client.take())
            sent += room
    else:
        talk.say(post(b"Content-Length: 100000000"))
        sent = 0
        while not talk.client.is_paused:
            talk.say(b"x" * 16_384)
            sent += 16_384
    assert sent < 4 * HIGH_WATER + STREAM_HIGH_WATER + (1 << 20)
