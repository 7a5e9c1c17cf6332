"""TLS that ends in an inspector, with real sockets through a real proxy: what is agreed, what is recorded, what is not read."""

from __future__ import annotations

import socket
import ssl

import pytest

from tests.inspect.world import ReadingStage, client_context, echo, speaking
from tests.netns import needs_root
from tests.running import ORIGIN, staged

pytestmark = [pytest.mark.netns, needs_root]


@pytest.fixture(scope="module")
def stage():
    with staged(ReadingStage) as stage:
        yield stage


@pytest.fixture
def laptop(stage):
    yield stage.laptop()
    stage.after_test()


def issuer(sock: ssl.SSLSocket) -> str:
    return dict(part for each in sock.getpeercert()["issuer"] for part in each)["commonName"]


def exchange(sock: ssl.SSLSocket, data: bytes) -> bytes:
    sock.sendall(data)
    back = b""
    while len(back) < len(data):
        back += sock.recv(65_536)
    return back


@pytest.mark.parametrize("version", [4, 6])
def test_tls_ends_in_the_proxy_on_both_sides(stage, laptop, version):
    port = stage.serve(echo, stage.server_context(), version)
    with speaking(laptop, port, client_context(stage.client_trust), version=version) as sock:
        assert issuer(sock).startswith("oxyctl CA of acme")
        assert sock.version() == "TLSv1.3"
        assert exchange(sock, b"hello" * 1000) == b"hello" * 1000
    record = stage.record(port)
    assert (record.level, record.detected_protocol, record.close_reason) == ("tls", "tls", "client_closed")
    assert (record.tls.sni, record.tls.action, record.tls.version) == ("wiki.lab", "terminate", "TLSv1.3")
    assert (record.tls.origin_version, record.tls.issuer) == ("TLSv1.3", "roots of the lab")
    assert record.tls.ja4.startswith("t13d")
