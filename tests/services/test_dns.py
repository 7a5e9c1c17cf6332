"""The `dns` service: answers of its own beside scapy's reading of them, and what is no query."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRROPT

from oxyctl.services.dns_messages import Code
from oxyctl.services.zone import Zone
from oxyctl.traffic.messages import decode_response, encode_query
from tests.services.origin import Origin, node

HOSTS = """# of a lab
127.0.0.1 localhost
::1 localhost ip6-localhost
10.0.0.1 web
fd00::1 web
10.0.0.2 one
10.0.0.2 other
"""


@pytest.fixture
def zone(tmp_path):
    path = tmp_path / "hosts"
    path.write_text(HOSTS)
    return Zone(path)


def ask(zone, name, kind, limit=None):
    """The code and the values of the answer to a query."""
    response = decode_response(zone.answer(encode_query(7, name, kind), limit))
    assert response.ident == 7
    return response.code, sorted(answer.value for answer in response.answers)


@pytest.mark.parametrize(
    ("name", "kind", "code", "values"),
    [
        ("web", "A", "noerror", ["10.0.0.1"]),
        ("WEB.", "AAAA", "noerror", ["fd00::1"]),
        ("web", "ANY", "noerror", ["10.0.0.1", "fd00::1"]),
        ("web", "MX", "noerror", []),
        ("one", "AAAA", "noerror", []),
        ("localhost", "A", "noerror", ["127.0.0.1"]),
        ("nobody", "A", "nxdomain", []),
        ("web.example.com", "A", "nxdomain", []),
        ("1.0.0.10.in-addr.arpa", "PTR", "noerror", ["web"]),
        ("2.0.0.10.in-addr.arpa", "PTR", "noerror", ["one", "other"]),
        ("9.0.0.10.in-addr.arpa", "PTR", "nxdomain", []),
        ("1" + ".0" * 28 + ".0.d.f.ip6.arpa", "PTR", "noerror", ["web"]),
    ],
)
def test_names_of_the_lab_and_no_others(zone, name, kind, code, values):
    assert ask(zone, name, kind) == (code, values)


def test_scapy_reads_the_answer_and_finds_the_question_as_it_was_asked(zone):
    query = bytes(DNS(id=9, rd=1, qd=DNSQR(qname="wEb"), ar=DNSRROPT(rclass=4096)))
    answer = DNS(zone.answer(query))
    assert (answer.id, answer.qr, answer.aa, answer.rd, answer.ra, answer.rcode) == (9, 1, 1, 1, 1, 0)
    assert (answer.qd[0].qname, answer.an[0].rrname, answer.an[0].rdata) == (b"wEb.", b"wEb.", "10.0.0.1")
    assert (answer.arcount, answer.ar[0].type) == (1, 41)


def test_the_zone_follows_its_file(zone, tmp_path):
    assert ask(zone, "late", "A") == ("nxdomain", [])
    (tmp_path / "hosts").write_text(HOSTS + "10.0.0.9 late\n")
    assert ask(zone, "late", "A") == ("noerror", ["10.0.0.9"])
    (tmp_path / "hosts").unlink()
    assert ask(zone, "late", "A") == ("noerror", ["10.0.0.9"])


def test_an_answer_that_is_too_long_is_cut_where_it_may_be(tmp_path):
    (tmp_path / "hosts").write_text("".join(f"10.0.{i}.1 many\n" for i in range(100)))
    zone = Zone(tmp_path / "hosts")
    cut = zone.answer(encode_query(1, "many", "A"))
    assert len(cut) <= 512
    assert (decode_response(cut).is_truncated, decode_response(cut).answers) == (True, [])
    large = bytes(DNS(id=1, qd=DNSQR(qname="many"), ar=DNSRROPT(rclass=4096)))
    assert DNS(zone.answer(large)).ancount == 100
    assert len(decode_response(zone.answer_stream(encode_query(1, "many", "A"))).answers) == 100


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (DNS(id=3, opcode=5, qd=DNSQR(qname="web")), Code.NOTIMP),
        (DNS(id=3, qd=DNSQR(qname="web", qclass=3)), Code.REFUSED),
        (DNS(id=3, qd=[DNSQR(qname="web"), DNSQR(qname="one")]), Code.FORMERR),
    ],
)
def test_what_cannot_be_answered_gets_its_code(zone, query, code):
    answer = DNS(zone.answer(bytes(query)))
    assert (answer.id, answer.rcode, answer.ancount) == (3, code, 0)


def test_what_is_no_query_gets_no_answer(zone):
    response = zone.answer(encode_query(7, "web", "A"))
    assert zone.answer(response) is None
    assert zone.answer(b"short") is None


@given(st.binary(max_size=80))
def test_no_message_is_too_strange(data):
    zone = Zone(None)
    for message in (data, encode_query(1, "localhost", "A")[:12] + data):
        answer = zone.answer(message)
        assert answer is None or (answer[:2] == message[:2] and answer[2] & 0x80)


@pytest.fixture
def port(tmp_path):
    """Of a server that knows only `localhost`."""
    origin = Origin(tmp_path, node("dns"))
    yield origin.port["dns"]
    assert origin.stop() == 0
    assert "Traceback" not in origin.log.read_text()


def test_over_udp_each_query_has_its_answer(port, address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((address, port))
        sock.send(b"no query")
        sock.send(encode_query(5, "localhost", "A"))
        assert decode_response(sock.recv(512)).ident == 5


def test_over_tcp_queries_come_in_pieces_and_many_at_once(port, address):
    queries = [encode_query(ident, "localhost", "AAAA") for ident in range(3)]
    sent = b"".join(struct.pack("!H", len(query)) + query for query in queries)
    with socket.create_connection((address, port), timeout=10) as sock, sock.makefile("rb") as answers:
        sock.sendall(sent[:1])
        sock.sendall(sent[1:40])
        sock.sendall(sent[40:])
        for ident in range(3):
            message = answers.read(int.from_bytes(answers.read(2), "big"))
            response = decode_response(message)
            assert (response.ident, [answer.value for answer in response.answers]) == (ident, ["::1"])
        sock.sendall(struct.pack("!H", 5) + b"bytes")
        assert answers.read() == b""
