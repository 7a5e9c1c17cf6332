"""DNS messages against scapy's, and against arbitrary bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRRMX

from oxyctl.traffic.messages import Malformed, decode_response, encode_name, encode_query

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)


def test_a_query_is_what_scapy_reads():
    query = DNS(encode_query(0x1234, "www.example.com.", "AAAA"))
    assert (query.id, query.qr, query.rd, query.qdcount) == (0x1234, 0, 1, 1)
    assert (query.qd[0].qname, query.qd[0].qtype, query.qd[0].qclass) == (b"www.example.com.", 28, 1)


def response(*records, **fields):
    question = DNSQR(qname="web.example", qtype="A")
    return bytes(DNS(id=7, qr=1, qd=[question], an=list(records), **fields))


def test_answers_of_each_type():
    found = decode_response(
        response(
            DNSRR(rrname="web.example", type="A", rdata="10.0.0.1", ttl=60),
            DNSRR(rrname="web.example", type="AAAA", rdata="fd00::1"),
            DNSRR(rrname="web.example", type="CNAME", rdata="www.example"),
            DNSRR(rrname="web.example", type="TXT", rdata=[b"one ", b"two"]),
            DNSRRMX(rrname="web.example", preference=5, exchange="mail.example"),
            DNSRR(rrname="web.example", type=99, rdata=b"\x01\x02"),
        )
    )
    assert (found.ident, found.code, found.is_truncated) == (7, "noerror", False)
    assert found.answers[0] == ("web.example", "A", 60, "10.0.0.1")
    assert [(answer.type, answer.value) for answer in found.answers[1:]] == [
        ("AAAA", "fd00::1"),
        ("CNAME", "www.example"),
        ("TXT", "one two"),
        ("MX", "5 mail.example"),
        ("TYPE99", "0102"),
    ]


def test_codes_and_truncation():
    assert decode_response(response(rcode=3)).code == "nxdomain"
    assert decode_response(response(rcode=5)).code == "refused"
    assert decode_response(response(rcode=11)).code == "rcode_11"
    assert decode_response(response(tc=1)).is_truncated


@given(st.lists(LABEL, min_size=1, max_size=5))
def test_a_name_comes_back_through_a_response(labels):
    name = ".".join(labels)
    message = b"\x00\x01\x80\x00\x00\x01\x00\x01\x00\x00\x00\x00" + encode_name(name) + b"\x00\x05\x00\x01"
    record = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x00\x00\x02\xc0\x0c"  # both names point at the question's
    assert decode_response(message + record).answers == [(name, "CNAME", 0, name)]


@pytest.mark.parametrize("name", ["a..b", ".a", "a" * 64, ".".join(["abcdefgh"] * 40), "b\u00fccher"])
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match="not a DNS name"):
        encode_name(name)
    assert encode_name(".") == encode_name("") == b"\0"


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="unknown record type 'AAA'"):
        encode_query(1, "web", "AAA")


HEAD = b"\x00\x01\x80\x00\x00\x00\x00\x01\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x00\x01\x00\x00" + bytes(8), "a query"),
        (HEAD, "is truncated"),
        (HEAD + b"\xc0\x0c" + bytes(10), "form a loop"),
        (HEAD + b"\x80" + bytes(10), "label of an unknown kind"),
        (HEAD + b"\0" + b"\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04" + b"\x0a", "longer than the message"),
        (HEAD + b"\0" + b"\x00\x01\x00\x01\x00\x00\x00\x00\x00\x03" + b"\x0a\0\0", "is truncated"),
    ],
)
def test_what_is_no_response(message, reason):
    with pytest.raises(Malformed, match=reason):
        decode_response(message)


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda rest: HEAD + rest)))
def test_arbitrary_bytes_are_a_response_or_malformed(message):
    try:
        found = decode_response(message)
    except Malformed:
        return
    assert message[2] & 0x80
    assert all(isinstance(answer.value, str) for answer in found.answers)
