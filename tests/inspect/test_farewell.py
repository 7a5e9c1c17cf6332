"""One direction of a TLS connection ends: what the other one still carries arrives to the last byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

import pytest

from proxy.ca.authority import Authority
from proxy.inspect.sockets import TLSStream, Turn
from proxy.inspect.stream import Side
from proxy.inspect.tls import load_chain
from proxy.poller import Poller
from proxy.session.facts import TLSFacts

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Collector:
    """What a stream gives its handler."""

    def __init__(self):
        self.data, self.is_over, self.error = b"", asyncio.Event(), None

    def received(self, side, data):
        self.data += bytes(data)

    def ended(self, side):
        self.is_over.set()

    def broken(self, side, error):
        self.error = error
        self.is_over.set()


@pytest.fixture(scope="module")
def contexts():
    authority = Authority.create("test")
    leaf = authority.mint("wiki.lab")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(server, leaf.chain, leaf.key)
    return server, ssl.create_default_context(cadata=authority.certificate_pem.decode())


def shaken(contexts, version) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """A server's and a client's socket after their handshake; neither blocks."""
    server, client = contexts
    server.maximum_version = version
    pair = socket.socketpair()
    for each in pair:
        each.setblocking(False)
    far = server.wrap_socket(pair[0], server_side=True, do_handshake_on_connect=False)
    near = client.wrap_socket(pair[1], server_hostname="wiki.lab", do_handshake_on_connect=False)
    waiting = [near, far]
    while waiting:
        for each in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
                waiting.remove(each)
    return near, far


def opened(near: ssl.SSLSocket, poller: Poller) -> tuple[TLSStream, Collector]:
    stream, heard = TLSStream(Side.ORIGIN, near, poller, Turn(), pytest.fail, TLSFacts("TLSv1.3", "x")), Collector()
    stream.handler = heard
    return stream, heard


@pytest.mark.parametrize("version", VERSIONS)
def test_what_had_arrived_and_what_comes_after_our_end(contexts, version):
    async def run():
        near, far = shaken(contexts, version)
        poller = Poller(asyncio.get_running_loop())
        stream, heard = opened(near, poller)
        far.send(b"before")
        stream.end()
        assert far.recv(1) == b""  # close_notify, not only a FIN
        far.send(b" after")
        stream.resume()
        with contextlib.suppress(OSError):
            far.unwrap()
        far.close()
        await asyncio.wait_for(heard.is_over.wait(), 10)
        assert (heard.data, heard.error) == (b"before after", None)
        stream.close()
        poller.close()

    asyncio.run(run())


def test_a_far_end_that_takes_nothing_hears_of_our_end_after_all_else(contexts):
    async def run():
        near, far = shaken(contexts, VERSIONS[1])
        poller = Poller(asyncio.get_running_loop())
        stream, _ = opened(near, poller)
        sent = 4 << 20
        stream.handler.drained = lambda side: None
        stream.write(bytes(sent))
        stream.end()
        assert stream.queued
        received, loop = 0, asyncio.get_running_loop()
        deadline = loop.time() + 20
        while loop.time() < deadline:
            try:
                data = far.recv(65_536)
            except ssl.SSLWantReadError:
                await asyncio.sleep(0)
                continue
            if not data:
                break
            received += len(data)
        assert received == sent
        assert stream.is_settled
        stream.close()
        far.close()
        poller.close()

    asyncio.run(run())


def test_a_far_end_that_is_gone(contexts):
    async def run():
        near, far = shaken(contexts, VERSIONS[1])
        poller = Poller(asyncio.get_running_loop())
        stream, _ = opened(near, poller)
        far.close()
        stream.end()
        assert stream.is_settled
        stream.close()
        poller.close()

    asyncio.run(run())
