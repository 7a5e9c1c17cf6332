"""Each kind of traffic by the real program, against the lab's own services and servers with bad habits."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket

import pytest
from scapy.layers.dns import DNS, DNSRR

from oxyctl.services.certificates import Authority
from oxyctl.traffic.client import GeneratorError, GeneratorProcess
from tests.services.origin import FAMILIES
from tests.traffic.conftest import traffic


@pytest.fixture
def closed_port():
    """A port of loopback that nobody listens on, and nobody else gets meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def target(origin, service, address="127.0.0.1"):
    return f"[{address}]:{origin.port[service]}" if ":" in address else f"{address}:{origin.port[service]}"


# HTTP


@pytest.mark.parametrize("address", FAMILIES.values(), ids=FAMILIES)
def test_requests_over_one_connection(origin, generate, address):
    report = generate("http", origin.url("/bytes/1000", address), count=20)
    assert (report.sent, report.succeeded, report.statuses, report.connections) == (20, 20, {"200": 20}, 1)
    assert (report.bytes_received, report.address) == (20_000, address)
    assert 0 < report.latency_ms.min <= report.latency_ms.p99 <= report.latency_ms.max


def test_a_connection_for_each_request(origin, generate):
    report = generate("http", origin.url("/"), count=5, keep_alive=False)
    assert (report.succeeded, report.connections) == (5, 5)


def test_no_more_connections_than_slots(origin, generate):
    report = generate("http", origin.url("/delay/0.02"), count=12, concurrency=4)
    assert (report.succeeded, report.connections) == (12, 4)


def test_bodies_go_up_and_the_detail_tells_what_came_back(origin, generate):
    report = generate("http", origin.url("/echo"), method="POST", size=100_000, count=2, detail=True)
    assert (report.bytes_sent, report.bytes_received) == (200_000, 200_000)
    assert report.detail["sha256"] == hashlib.sha256(bytes(100_000)).hexdigest()
    assert (report.detail["status"], report.detail["length"]) == (200, 100_000)


def test_headers_are_sent(origin, generate):
    report = generate("http", origin.url("/headers"), headers={"X-Who": "me"}, count=1, detail=True)
    assert '"me"' in report.detail["body"]


def test_a_status_of_an_error_is_a_failure_of_its_own_kind(origin, generate):
    report = generate("http", origin.url("/status/503"), count=3)
    assert (report.succeeded, report.errors, report.statuses) == (0, {"http_503": 3}, {"503": 3})


def test_https_with_and_without_the_authority(origin, generate, tmp_path):
    url = origin.url("/", scheme="https")
    assert generate("http", url, count=2).succeeded == 2
    assert generate("http", url, count=1, ca=str(origin.state / "ca.pem")).succeeded == 1
    Authority.load_or_create(tmp_path)
    other = generate("http", url, count=1, ca=str(tmp_path / "ca.pem"))
    assert (other.succeeded, set(other.errors)) == (0, {"tls"})
    with pytest.raises(GeneratorError, match="cannot read certificates") as caught:
        generate("http", url, ca=str(tmp_path / "none.pem"))
    assert caught.value.is_usage


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_http2_goes_one_stream_after_another_on_one_connection(origin, generate, scheme):
    report = generate("http", origin.url("/bytes/100000", scheme=scheme), count=20, http2=True, detail=True)
    assert (report.succeeded, report.statuses, report.connections) == (20, {"200": 20}, 1)
    assert (report.bytes_received, report.detail["headers"]["content-length"]) == (2_000_000, "100000")
    report = generate("http", origin.url("/echo", scheme=scheme), method="POST", size=3_000_000, count=2, http2=True)
    assert (report.succeeded, report.bytes_received) == (2, 6_000_000)


def test_http2_that_breaks_off(origin, generate):
    report = generate("http", origin.url("/broken/reset"), count=1, http2=True)
    assert report.errors == {"stream_reset": 1}
    report = generate("http", origin.url("/broken/nothing"), count=1, http2=True)
    assert report.errors == {"closed": 1}


# WebSockets


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_messages_are_echoed(origin, generate, scheme, http2):
    url = origin.url("/ws", scheme=scheme).replace("http", "ws", 1)
    report = generate("websocket", url, count=6, concurrency=2, size=200_000, http2=http2)
    assert (report.succeeded, report.connections) == (6, 2)
    assert (report.bytes_sent, report.bytes_received) == (1_200_000, 1_200_000)
    report = generate("websocket", url.replace("/ws", "/status/404"), count=1, http2=http2)
    assert report.errors == {"http_501" if http2 else "http_404": 1}


def test_what_speaks_no_http(origin, generate):
    report = generate("http", f"http://127.0.0.1:{origin.port['echo']}/", count=1)
    assert set(report.errors) == {"protocol"}


def test_refused_and_late(origin, generate, closed_port):
    assert generate("http", f"http://127.0.0.1:{closed_port}/", count=2).errors == {"refused": 2}
    late = generate("http", origin.url("/delay/5"), count=1, timeout_s=0.1)
    assert (late.errors, late.latency_ms) == ({"timeout": 1}, None)


def test_a_server_that_closes_used_connections_costs_no_request(generate):
    answers = []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        answers.append(1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # says nothing of closing, and closes
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, GeneratorProcess() as generator:
            port = server.sockets[0].getsockname()[1]
            return await generator.run(traffic("http", f"http://127.0.0.1:{port}/", count=10))

    report = asyncio.run(main())
    assert (report.succeeded, report.failed, len(answers)) == (10, 0, 10)


# TCP


@pytest.mark.parametrize("address", FAMILIES.values(), ids=FAMILIES)
def test_connects(origin, generate, address):
    report = generate("tcp", target(origin, "echo", address), rate=500, count=50)
    assert (report.succeeded, report.asked_rate, report.latency_from) == (50, 500, "due")


def test_connects_that_are_refused(generate, closed_port):
    assert generate("tcp", f"127.0.0.1:{closed_port}", count=3).errors == {"refused": 3}


@pytest.mark.parametrize(
    ("service", "mode", "up", "down"),
    [
        ("echo", "both", True, True),
        ("sink", "up", True, False),
        ("http", "down", False, True),
        ("http", "up", True, False),
    ],
)
def test_bytes_move(origin, generate, service, mode, up, down):
    prefix = "http://" if service == "http" else ""
    report = generate("tcp", prefix + target(origin, service), mode=mode, duration_s=1, concurrency=2)
    assert (report.sent, report.succeeded, report.errors) == (2, 2, {})
    moved = [report.bytes_sent > 1_000_000, report.bytes_received > 1_000_000]
    assert moved == [up, down]
    assert report.sent_bps > 0 or not up


def test_what_cannot_be_filled(origin, generate, closed_port):
    nothing = generate("tcp", target(origin, "sink"), mode="down", duration_s=1)
    assert nothing.errors == {"idle": 1}
    missing = generate("tcp", f"http://{target(origin, 'http')}/none", mode="down", duration_s=1)
    assert missing.errors == {"http_404": 1}
    assert generate("tcp", f"127.0.0.1:{closed_port}", mode="up", duration_s=1).errors == {"refused": 1}


# UDP


@pytest.mark.parametrize("address", FAMILIES.values(), ids=FAMILIES)
def test_datagrams_come_back(origin, generate, address):
    report = generate("udp", target(origin, "echo", address), rate=1000, count=100, size=1200)
    assert (report.succeeded, report.loss, report.reordered, report.duplicates) == (100, 0.0, 0, 0)
    assert (report.bytes_sent, report.bytes_received) == (120_000, 120_000)
    assert report.jitter_ms is not None


def test_lost_datagrams(generate_to):
    report = generate_to("udp", lambda data, n: [] if n % 4 == 0 else [data], count=20, concurrency=20, timeout_s=2)
    assert (report.sent, report.succeeded, report.errors, report.loss) == (20, 15, {"timeout": 5}, 0.25)


def test_datagrams_that_come_twice_or_from_strangers(generate_to):
    report = generate_to("udp", lambda data, n: [b"x" * 64, data, data], count=5)
    assert (report.succeeded, report.reordered) == (5, 0)
    assert report.duplicates >= 4  # the last one may come after the end


def test_datagrams_out_of_order(generate_to):
    held = []

    def swap(data, number):
        held.append(data)
        return [] if number % 2 == 0 else [held.pop(), held.pop()]

    report = generate_to("udp", swap, count=10, concurrency=10)
    assert (report.succeeded, report.reordered) == (10, 5)


def test_refused_datagrams(generate, closed_port):
    assert generate("udp", f"127.0.0.1:{closed_port}", count=3).errors == {"refused": 3}


# DNS


def answer(code=0):
    def make(data, number):
        query = DNS(data)
        record = DNSRR(rrname=query.qd[0].qname, type="A", rdata="10.0.0.7", ttl=1)
        return [bytes(DNS(id=query.id, qr=1, rcode=code, qd=query.qd, an=[] if code else [record]))]

    return make


def test_queries_are_answered(generate_to):
    report = generate_to("dns", answer(), query="web.example", rate=500, count=50, detail=True)
    assert (report.succeeded, report.statuses) == (50, {"noerror": 50})
    assert report.detail["answers"] == [{"name": "web.example", "type": "A", "ttl": 1, "value": "10.0.0.7"}]


def test_a_code_is_a_failure_of_its_own_kind(generate_to):
    report = generate_to("dns", answer(3), query="nosuch.example", count=2)
    assert (report.errors, report.statuses) == ({"nxdomain": 2}, {"nxdomain": 2})


def test_what_is_no_answer(generate_to):
    assert generate_to("dns", lambda data, n: [data[:2] + b"?"], query="x", count=1).errors == {"malformed": 1}


def test_queries_over_tcp(generate):
    async def serve(reader, writer):
        length = int.from_bytes(await reader.readexactly(2), "big")
        (message,) = answer()(await reader.readexactly(length), 0)
        writer.write(len(message).to_bytes(2, "big") + message)
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server, GeneratorProcess() as generator:
            port = server.sockets[0].getsockname()[1]
            return await generator.run(traffic("dns", f"127.0.0.1:{port}", query="x", over="tcp", count=3))

    assert asyncio.run(main()).succeeded == 3


# the program


@pytest.mark.parametrize(
    ("kind", "to", "options", "message"),
    [
        ("udp", "127.0.0.1", {}, "no port"),
        ("http", "gopher://x", {}, "not a URL"),
        ("dns", "127.0.0.1", {"query": "a..b"}, "not a DNS name"),
        ("tcp", "no-such-host.invalid:80", {}, "'no-such-host.invalid' has no address"),
        ("tcp", "127.0.0.1:80", {"family": 6}, "has no IPv6 address"),
        ("http", "http://127.0.0.1/", {"headers": {"a b": "c"}}, "not an HTTP request"),
    ],
)
def test_what_makes_no_sense_is_said_and_is_nobodys_failure(generate, kind, to, options, message):
    with pytest.raises(GeneratorError, match=re.escape(message)) as caught:
        generate(kind, to, **options)
    assert caught.value.is_usage


def test_several_at_once_and_stopped_with_what_they_have(origin):
    async def main():
        told = asyncio.Event()

        def tell(progress):
            if progress.succeeded >= 20:
                told.set()

        async with GeneratorProcess() as generator:
            endless = asyncio.create_task(generator.run(traffic("http", origin.url("/"), rate=50, count=100_000), tell))
            short = await generator.run(traffic("udp", target(origin, "echo"), count=3))
            await told.wait()
            generator.stop()
            return short, await endless

    short, endless = asyncio.run(main())
    assert (short.succeeded, short.interrupted) == (3, False)
    assert endless.interrupted
    assert 20 <= endless.succeeded < 100_000


def test_a_generator_that_cannot_start_says_why():
    async def main():
        async with GeneratorProcess(["sh", "-c", "echo no such thing >&2; exit 3"]) as generator:
            await generator.run(traffic("ping", "127.0.0.1"))

    with pytest.raises(GeneratorError, match="no such thing"):
        asyncio.run(main())
