"""What a ClientHello says, however it is cut, and what it must not be taken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.client_hello import MAX_HELLO, Hello, Malformed, parse
from tests import hellos


def test_a_hello_of_openssl_is_read():
    data = hellos.openssl("Wiki.Lab", ["h2", "http/1.1"])
    hello = parse(data + b"what follows")
    assert isinstance(hello, Hello)
    assert (hello.sni, hello.alpn, hello.version, hello.length) == (
        "wiki.lab",
        ("h2", "http/1.1"),
        "TLSv1.3",
        len(data),
    )
    assert hello.ja4.startswith("t13d")


@pytest.mark.parametrize("grease", [False, True])
def test_ja4_is_that_of_foxio_with_and_without_grease(grease):
    hello = parse(hellos.records(hellos.chrome(grease=grease)))
    assert isinstance(hello, Hello)
    assert hello.ja4 == hellos.CHROME_JA4


def test_ja4_without_name_and_alpn():
    hello = parse(hellos.openssl("192.0.2.1"))
    assert isinstance(hello, Hello)
    assert hello.sni is None
    assert hello.ja4[3] == "i"
    assert hello.ja4.split("_")[0].endswith("00")


@pytest.mark.parametrize("size", [1, 3, 100, 16_384])
def test_records_of_any_size_are_put_together(size):
    whole = parse(hellos.records(hellos.chrome(), size))
    assert isinstance(whole, Hello)
    assert whole.sni == "www.example.com"


def test_a_post_quantum_key_share_is_no_hindrance():
    data = hellos.records(hellos.chrome(more=hellos.extension(51, bytes(1_220))))
    assert len(data) > 1_500
    assert isinstance(parse(data), Hello)


def test_encrypted_client_hello_is_noticed_and_the_outer_name_read():
    hello = parse(hellos.records(hellos.chrome(b"public.example", more=hellos.extension(0xFE0D, bytes(64)))))
    assert isinstance(hello, Hello)
    assert (hello.has_ech, hello.sni) == (True, "public.example")


@pytest.mark.parametrize("size", [1, 7, 16_384])
def test_a_part_of_it_says_how_much_is_needed_and_never_too_much(size):
    data = hellos.records(hellos.chrome(), size)
    for length in range(len(data)):
        needed = parse(data[:length])
        assert isinstance(needed, int)
        assert length < needed <= len(data)


def test_single_bytes_are_looked_at_few_times():
    data, looks, needed = hellos.records(hellos.chrome(), 1), 0, 1
    while isinstance(needed, int):
        needed, looks = parse(data[:needed]), looks + 1
    assert isinstance(needed, Hello)
    assert looks < 60


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", Malformed.NOT_TLS),
        (b"\x16\x02\x00\x00\x01\x01", Malformed.NOT_TLS),
        (b"\x16\x03\x01\x00\x00", Malformed.BAD_RECORD),
        (b"\x16\x03\x01\x40\x01", Malformed.BAD_RECORD),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Malformed.NOT_HELLO),
        (b"\x16\x03\x01\x00\x04\x01\x01\x00\x00", Malformed.TOO_LONG),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", Malformed.BAD_LENGTH),
        (hellos.records(hellos.chrome(b"a b")), Malformed.BAD_NAME),
        (hellos.records(hellos.chrome(b"")), Malformed.BAD_NAME),
        (hellos.records(hellos.chrome(b"x" * 254)), Malformed.BAD_NAME),
        (hellos.records(hellos.chrome(b"\xff.example")), Malformed.BAD_NAME),
        (hellos.records(hellos.chrome(more=b"\x00\x2b\x00\x09\x01")), Malformed.BAD_LENGTH),
    ],
)
def test_what_is_none_has_a_reason(data, reason):
    assert parse(data) is reason


def test_an_endless_one_is_given_up():
    endless = b"\x16\x03\x01\x00\x04\x01\x00\xff\xf0" + b"\x16\x03\x01\x00\x01\x00" * MAX_HELLO
    assert parse(endless) is Malformed.TOO_LONG


@given(st.binary(max_size=400))
def test_arbitrary_bytes_have_an_answer(data):
    assert isinstance(parse(data), (Hello, Malformed, int))


@given(st.data())
def test_a_hello_with_flipped_bytes_has_an_answer(data):
    flawed = bytearray(hellos.records(hellos.chrome()))
    for _ in range(data.draw(st.integers(1, 6))):
        flawed[data.draw(st.integers(0, len(flawed) - 1))] = data.draw(st.integers(0, 255))
    answer = parse(bytes(flawed))
    assert isinstance(answer, (Hello, Malformed, int))
    if isinstance(answer, Hello):
        assert len(answer.ja4.split("_")) == 3
