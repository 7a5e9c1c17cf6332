"""The http and https services: WebSockets, server-sent events, and answers that break the protocol."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from websockets.asyncio.client import connect

from oxyctl.services.http.broken import ANSWERS
from tests.services.origin import run


def context():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("compression", ["deflate", None])
def test_a_websocket_echoes(origin, scheme, compression):
    """Not by `websockets.sync`, whose two threads use one SSL object at once: a handshake may wait for ever."""
    url, tls = origin.url("/ws", scheme=scheme).replace("http", "ws", 1), context() if scheme == "https" else None

    async def talk():
        async with connect(url, compression=compression, ssl=tls, max_size=None) as socket:
            await socket.send("héllo")
            assert await socket.recv() == "héllo"
            await socket.send(b"\0" * (1 << 20))
            assert b"".join([part async for part in socket.recv_streaming()]) == b"\0" * (1 << 20)
            await socket.send(["frag", "ments"])
            assert await socket.recv() == "fragments"
            await asyncio.wait_for(await socket.ping(), 5)

            async def with_a_ping_between():
                yield "be"
                await socket.ping()
                yield "tween"

            await socket.send(with_a_ping_between())
            assert await socket.recv() == "between"

    asyncio.run(talk())


def test_without_an_upgrade_there_is_no_such_page(origin):
    done = run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", origin.url("/ws"))
    assert done.stdout == "404"


def test_events_come_one_by_one(origin, curl):
    assert curl(origin.url("/events/3?interval=0.01")) == "".join(f"id: {n}\ndata: {n}\n\n" for n in (1, 2, 3))


@pytest.mark.parametrize("kind", sorted(set(ANSWERS) - {"long", "header", "framings", "lengths"}))
def test_a_broken_answer_is_an_error_of_the_client(origin, kind):
    done = run("curl", "-s", "-m", "5", origin.url(f"/broken/{kind}"))
    assert done.returncode != 0


def test_an_unknown_kind_is_told_the_known_ones(origin):
    assert "short, long, cut" in run("curl", "-s", origin.url("/broken/x")).stdout
