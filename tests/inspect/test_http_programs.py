"""HTTP/2, WebSockets and large bodies through a real proxy, with curl and Python's websockets."""

from __future__ import annotations

import hashlib
import shutil
import socket
import sys
import threading
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import msgspec
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

from proxy.flow.request import RequestRecord
from tests.inspect.test_http_sessions import answer, curl
from tests.inspect.world import ReadingStage, client_context, run, speaking
from tests.netns import needs_root
from tests.running import ORIGIN, Stage, staged, until

pytestmark = [
    pytest.mark.netns,
    needs_root,
    pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl"),
]
SIZE = 20 << 20
BODY = b"0123456789abcdef" * (SIZE // 16)
DIGEST = hashlib.sha256(BODY).hexdigest()


class _WithRequests(Stage):
    def __init__(self, directory: str, text: str) -> None:
        super().__init__(directory, f"{text}records: {{requests: {{path: {directory}/requests.jsonl}}}}\n")


class RecordingStage(ReadingStage, _WithRequests):
    """Requests are recorded."""

    def requests(self, path: str) -> list[RequestRecord]:
        """Those for this path."""
        lines = Path(self.directory, "requests.jsonl").read_bytes().splitlines()
        return [r for line in lines if (r := msgspec.json.decode(line, type=RequestRecord)).path == path]


@pytest.fixture(scope="module")
def stage():
    with staged(RecordingStage, level="http") as stage:
        yield stage


def large(sock) -> None:
    """An origin of HTTP/1.1: GET gets BODY, POST the digest of what was sent."""
    read = b""
    while True:
        while b"\r\n\r\n" not in read:
            if not (data := sock.recv(1 << 16)):
                return
            read += data
        head, _, read = read.partition(b"\r\n\r\n")
        if head.startswith(b"GET"):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + BODY)
            continue
        if b"100-continue" in head:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        left, digest = (
            int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(read),
            hashlib.sha256(read),
        )
        while left > 0 and (data := sock.recv(1 << 16)):
            digest.update(data)
            left -= len(data)
        read = b""
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest.hexdigest().encode())


def http2(sock) -> None:
    """An origin of HTTP/2: each request gets BODY, as far as windows allow."""
    origin = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    origin.initiate_connection()
    sock.sendall(origin.data_to_send())
    sent: dict[int, int] = {}
    while data := sock.recv(1 << 16):
        for event in origin.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                origin.send_headers(event.stream_id, [(b":status", b"200")])
                sent[event.stream_id] = 0
            elif isinstance(event, h2.events.StreamReset):
                sent.pop(event.stream_id, None)
        for number in list(sent):
            while number in sent and (room := min(origin.local_flow_control_window(number), 16_384)) > 0:
                part = BODY[sent[number] : sent[number] + room]
                sent[number] += len(part)
                origin.send_data(number, part, end_stream=sent[number] == SIZE)
                if sent[number] == SIZE:
                    del sent[number]
        sock.sendall(origin.data_to_send())


def websocket(sock) -> None:
    """An origin that echoes messages."""
    origin = WSConnection(ConnectionType.SERVER)
    while data := sock.recv(1 << 16):
        origin.receive_data(data)
        for event in origin.events():
            if isinstance(event, Request):
                sock.sendall(origin.send(AcceptConnection(extensions=[PerMessageDeflate()])))
            elif isinstance(event, TextMessage | BytesMessage):
                sock.sendall(origin.send(type(event)(event.data, event.frame_finished, event.message_finished)))
            elif isinstance(event, Ping | CloseConnection):
                sock.sendall(origin.send(event.response()))
                if isinstance(event, CloseConnection):
                    return


def digest_of(stage, laptop, port, *words):
    got = f"{stage.directory}/got"
    done = curl(stage, laptop, port, "-o", got, *words)
    with open(got, "rb") as file:
        return done.stdout.strip(), hashlib.sha256(file.read()).hexdigest()


@pytest.mark.slow
def test_20_mb_down_by_http_1_1(stage, laptop):
    port = stage.serve(large, stage.server_context(alpn=("http/1.1",)))
    assert digest_of(stage, laptop, port) == ("1.1 200", DIGEST)


@pytest.mark.slow
def test_20_mb_up_with_expect(stage, laptop, tmp_path):
    (tmp_path / "body").write_bytes(BODY)
    port = stage.serve(large, stage.server_context(alpn=("http/1.1",)))
    done = curl(stage, laptop, port, "-T", str(tmp_path / "body"), "-X", "POST", "-H", "Expect: 100-continue")
    assert done.stdout == f"{DIGEST}\n1.1 200", done.stderr


@pytest.mark.slow
def test_20_mb_down_by_http_2(stage, laptop):
    port = stage.serve(http2, stage.server_context(alpn=("h2",)))
    assert digest_of(stage, laptop, port, "--http2") == ("2 200", DIGEST)


@pytest.mark.slow
def test_http_2_in_the_clear_by_prior_knowledge(stage, laptop):
    port = stage.serve(http2)
    done = curl(stage, laptop, port, "--http2-prior-knowledge", "-o", "/dev/null", scheme="http")
    assert done.stdout.strip() == "2 200", done.stderr


# not by websockets.sync, whose two threads use one SSL object at once
SPEAKER = """
import asyncio, socket, ssl, sys
from websockets.asyncio.client import connect
host, port, trust = sys.argv[1:]

async def main():
    context = ssl.create_default_context(cafile=trust)
    raw = socket.create_connection((host, int(port)))
    raw.setblocking(False)
    async with connect(f"wss://wiki.lab:{port}/ws", sock=raw, ssl=context, max_size=None) as chat:
        await chat.send("text")
        assert await chat.recv() == "text"
        large = bytes(range(256)) * (1 << 12)
        await chat.send(large)
        assert b"".join([part async for part in chat.recv_streaming()]) == large
        await asyncio.wait_for(await chat.ping(), 5)
    print(chat.close_code)

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_websocket_with_pythons_websockets(stage, laptop):
    port = stage.serve(websocket, stage.server_context(alpn=("http/1.1",)))
    done = run(laptop, sys.executable, "-c", SPEAKER, ORIGIN[4], str(port), stage.client_trust)
    assert done.stdout == "1000\n", done.stderr
    flow = stage.record(port)
    assert flow.level == "http"
    request = until(lambda: stage.requests("/ws"))[0]
    assert (request.flow_id, request.upgrade, request.status) == (flow.flow_id, "websocket", 101)
    assert (request.client_messages, request.origin_messages, request.close_code) == (2, 2, 1000)


def test_each_request_is_a_line(stage, laptop):
    port = stage.serve(answer, stage.server_context(alpn=("http/1.1",)))
    url = f"https://wiki.lab:{port}/page?n=2"
    curl(
        stage,
        laptop,
        port,
        "--next",
        "-sS",
        "--cacert",
        stage.client_trust,
        "--resolve",
        f"wiki.lab:{port}:{ORIGIN[4]}",
        url,
    )
    request = until(lambda: stage.requests("/page?n=2"))[0]
    assert (request.method, request.url, request.status) == ("GET", url, 200)
    assert request.flow_id == stage.record(port).flow_id


def uploading(sock, size: int) -> None:
    """Upload so much by HTTP/2, as its windows allow, and end the stream."""
    browser = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    browser.initiate_connection()
    fields = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"wiki.lab"), (b":path", b"/left")]
    browser.send_headers(1, fields)
    sent = 0
    while sent < size:
        while room := min(browser.local_flow_control_window(1), 16_384, size - sent):
            browser.send_data(1, BODY[sent : sent + room], end_stream=sent + room == size)
            sent += room
        sock.sendall(browser.data_to_send())
        if sent < size:
            browser.receive_data(sock.recv(1 << 16))


def test_what_a_client_has_uploaded_before_it_ends_the_connection_arrives_whole(stage, laptop):
    heard, goes_on = bytearray(), threading.Event()
    ended = []

    def origin(sock):
        server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        server.initiate_connection()
        sock.sendall(server.data_to_send())
        while data := sock.recv(1 << 16):
            for event in server.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    heard.extend(event.data)
                    if len(heard) > 60_000:
                        goes_on.wait(20)  # until the client has gone
                    server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    ended.append(event.stream_id)
            sock.sendall(server.data_to_send())

    port = stage.serve(origin, stage.server_context(alpn=("h2",)))
    with speaking(laptop, port, client_context(stage.client_trust, ("h2",))) as sock:
        size = 190_000  # what the proxy takes although the origin does not read
        uploading(sock, size)
        sock.shutdown(socket.SHUT_WR)  # to close with something unread would be a reset, and lose what is on its way
        goes_on.set()
        record = stage.record(port)
    assert (len(heard), ended) == (size, [1])
    request = until(lambda: stage.requests("/left"))[-1]
    assert (request.fault, request.request_body_bytes) == ("client_gone", size)
    assert record.close_reason == "client_closed"
