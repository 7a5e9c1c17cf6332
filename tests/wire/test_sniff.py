"""What a client's first bytes are taken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.sniff import H2_PREFACE, MAX_REQUEST_LINE, Sniffed, sniff
from tests import hellos


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (hellos.records(hellos.chrome()), Sniffed.TLS),
        (b"\x16\x09", Sniffed.UNKNOWN),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Sniffed.HTTP1),
        (b"PROPFIND /a HTTP/1.0\r\n", Sniffed.HTTP1),
        (b"CONNECT a:443 HTTP/1.1\n", Sniffed.HTTP1),
        (H2_PREFACE, Sniffed.HTTP2),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Sniffed.SSH),
        (b"EHLO mail.example\r\n", Sniffed.UNKNOWN),
        (b"GET /\r\n", Sniffed.UNKNOWN),  # HTTP/0.9
        (b"\x00\x01\x02", Sniffed.UNKNOWN),
        (b" GET / HTTP/1.1\r\n", Sniffed.UNKNOWN),
        (b"A" * 40, Sniffed.UNKNOWN),
        (b"GET /\x01", Sniffed.UNKNOWN),
        (b"GET /" + b"a" * MAX_REQUEST_LINE, Sniffed.HTTP1),
    ],
)
def test_what_it_is(data, found):
    assert sniff(data) is found


@pytest.mark.parametrize("data", [b"", b"\x16", b"P", b"PRI * HT", b"SSH", b"GET", b"GET /a HTT", b"GET / HTTP/1.1"])
def test_more_is_needed(data):
    assert sniff(data) is None


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_it_is_the_same_in_single_bytes(data):
    answers = [sniff(data[:length]) for length in range(len(data) + 1)]
    known = [answer for answer in answers if answer is not None]
    assert len(set(known)) == 1
    assert answers.index(known[0]) == len(answers) - len(known)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_have_an_answer(data):
    assert sniff(data) is None or isinstance(sniff(data), Sniffed)
