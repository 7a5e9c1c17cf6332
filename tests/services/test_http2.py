"""The http and https services over HTTP/2: the same resources, gRPC, WebSockets, and answers that break it."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections import deque

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, TextMessage

from oxyctl.services.http.broken import ANSWERS
from tests.services.conftest import CONTENT
from tests.services.origin import FAMILIES, Origin, node, run

TLS, CLEAR = ("--http2", "https"), ("--http2-prior-knowledge", "http")


class Client:
    """A client of one connection in the clear, that reads as slowly as the test says."""

    def __init__(self, origin):
        self.sock = socket.create_connection(("127.0.0.1", origin.port["http"]), timeout=10)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events = deque()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def ask(self, method, path, *fields, number=1, end=False):
        pseudo = [(":method", method), (":scheme", "http"), (":authority", "web"), (":path", path)]
        self.h2.send_headers(number, [*pseudo, *fields], end_stream=end)
        self.flush()

    def send(self, data, *, number=1, end=False):
        self.h2.send_data(number, data, end_stream=end)
        self.flush()

    def upload(self, data, *, number):
        """All of a body, as the windows open."""
        while data:
            room = min(self.h2.local_flow_control_window(number), 16_384)
            if room:
                self.send(data[:room], number=number)
                data = data[room:]
            else:
                self.until(h2.events.WindowUpdated)
        self.send(b"", number=number, end=True)

    def until(self, kind):
        """The next event of that kind; what comes of bodies is acknowledged."""
        while True:
            while self.events:
                if isinstance(event := self.events.popleft(), kind):
                    return event
            data = self.sock.recv(65_536)
            assert data, f"closed before {kind.__name__}"
            self.events += self.h2.receive_data(data)
            for event in self.events:
                if isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()


@pytest.mark.parametrize(("option", "scheme"), [TLS, CLEAR])
def test_resources_are_the_same(origin, curl, tmp_path, option, scheme):
    page = curl(option, "-H", "Accept: application/json", origin.url("/", scheme=scheme), "-w", " %{http_version}")
    assert '"version":"2"' in page
    assert page.endswith(" 2")
    size = 3_000_000  # more than a window
    whole = curl(option, origin.url(f"/bytes/{size}.sha256", scheme=scheme)).strip()
    curl(option, "-o", tmp_path / "got", origin.url(f"/bytes/{size}", scheme=scheme))
    assert hashlib.sha256((tmp_path / "got").read_bytes()).hexdigest() == whole
    (tmp_path / "sent").write_bytes(CONTENT * 3)
    curl(option, "-o", tmp_path / "back", "--data-binary", f"@{tmp_path / 'sent'}", origin.url("/echo", scheme=scheme))
    assert (tmp_path / "back").read_bytes() == CONTENT * 3
    assert curl(option, origin.url("/file.bin", scheme=scheme), "-o", tmp_path / "file", "-w", "%{http_code}") == "200"
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert curl(option, "-I", origin.url("/bytes/5", scheme=scheme)).count("content-length: 5") == 1


def test_a_body_that_nobody_reads_does_not_close_the_window_of_the_connection(origin):
    with Client(origin) as client:
        client.until(h2.events.RemoteSettingsChanged)
        for number in range(1, 13, 2):
            client.ask("POST", "/status/200", number=number)
            client.until(h2.events.ResponseReceived)
            client.upload(bytes(1_000_000), number=number)


def test_a_call_of_grpc_echoes_each_message_before_the_next_and_ends_with_status_0(origin):
    with Client(origin) as client:
        client.ask("POST", "/any.Service/Method", ("content-type", "application/grpc"), ("te", "trailers"))
        assert dict(client.until(h2.events.ResponseReceived).headers)["content-type"] == "application/grpc"
        for text in (b"\0\0\0\0\1a", b"\0\0\0\0\1b"):
            client.send(text)
            assert client.until(h2.events.DataReceived).data == text
        client.send(b"", end=True)
        assert client.until(h2.events.TrailersReceived).headers == [("grpc-status", "0")]


def test_a_websocket_by_extended_connect_echoes(origin):
    with Client(origin) as client:
        changed = client.until(h2.events.RemoteSettingsChanged).changed_settings
        assert changed[h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL].new_value == 1
        client.ask("CONNECT", "/ws", (":protocol", "websocket"), ("sec-websocket-version", "13"))
        assert dict(client.until(h2.events.ResponseReceived).headers)[":status"] == "200"
        frames = Connection(ConnectionType.CLIENT)
        client.send(frames.send(TextMessage(data="hello")))
        frames.receive_data(client.until(h2.events.DataReceived).data)
        assert [event.data for event in frames.events()] == ["hello"]
        client.send(frames.send(CloseConnection(code=4000, reason="done")))
        frames.receive_data(client.until(h2.events.DataReceived).data)
        assert [event.code for event in frames.events()] == [4000]
        client.until(h2.events.StreamEnded)


def test_a_slow_stream_holds_up_no_other(origin):
    with Client(origin) as client:
        client.ask("GET", "/bytes/1000000", end=True)
        client.until(h2.events.ResponseReceived)
        client.h2.receive_data(client.sock.recv(200_000))  # never acknowledged: its window stays closed
        client.ask("GET", "/status/204", number=3, end=True)
        assert dict(client.until(h2.events.ResponseReceived).headers)[":status"] == "204"


@pytest.mark.parametrize("kind", sorted(ANSWERS))
def test_a_broken_answer_is_an_error_of_the_client(origin, kind):
    done = run("curl", "-s", "-m", "30", "--http2-prior-knowledge", origin.url(f"/broken/{kind}"))
    assert done.returncode not in (0, 28), done.stdout


def test_a_client_that_breaks_the_protocol_is_told_and_forgotten(origin):
    with Client(origin) as client:
        client.sock.sendall(b"\0\0\1\0\1\0\0\0\0\0")  # DATA on stream 0
        assert client.until(h2.events.ConnectionTerminated).error_code == 1


FAULTS = {
    "https": "h2",
    "https-h1": "http/1.1",
    "https-expired": "certificate has expired",
    "https-self-signed": "self-signed certificate",
}


def shaken(origin, service):
    """What ALPN agreed on, or why the certificate was refused."""
    context = ssl.create_default_context(cafile=origin.state / "ca.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    address = next(iter(FAMILIES.values()))
    try:
        with (
            socket.create_connection((address, origin.port[service]), timeout=10) as sock,
            context.wrap_socket(sock, server_hostname="web") as tls,
        ):
            return tls.selected_alpn_protocol()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message


def test_each_certificate_has_its_fault_and_no_other(tmp_path):
    origin = Origin(tmp_path, node(*FAULTS, "https-wrong-name"))
    try:
        found = {service: shaken(origin, service) for service in [*FAULTS, "https-wrong-name"]}
    finally:
        assert origin.stop() == 0
    assert found.pop("https-wrong-name").startswith("Hostname mismatch")
    assert found == FAULTS
