"""HPACK with a memory, beside the package that it is made of: the same fields, the same tables, the same refusals."""

import hpack
import pytest
from hpack import NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from proxy.inspect.http.h2_hpack import HUFFMAN_BYTES, MAX_CACHED, FastDecoder, FastEncoder

NAMES = st.sampled_from([b":path", b":status", b"etag", b"server", b"x-one", b"content-length", b"date", b"x-two"])
VALUES = st.sampled_from([b"", b"200", b"/", b"/a", b"gzip, deflate", b"x" * 300, b"y" * 2500, b"\xff\0"]) | st.binary()
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def table(coder):
    return list(coder.header_table.dynamic_entries)


@given(st.lists(FIELDS, max_size=8))
def test_any_decoder_reads_what_is_written(blocks):
    encoder, decoder = FastEncoder(), hpack.Decoder()
    for fields in blocks:
        assert list(decoder.decode(encoder.encode(fields), raw=True)) == fields
        assert table(encoder) == table(decoder)


@given(st.lists(FIELDS, max_size=8), st.integers(0, 200))
def test_what_any_encoder_writes_is_read(blocks, size):
    encoder, decoder = hpack.Encoder(), FastDecoder(1 << 16)
    for number, fields in enumerate(blocks):
        if number == 1:
            encoder.header_table_size = size
        assert list(decoder.decode(encoder.encode(fields), raw=True)) == fields
        assert table(encoder) == table(decoder)


def outcome(decoder, block):
    try:
        return list(decoder.decode(block, raw=True))
    except (hpack.HPACKError, IndexError) as error:
        return type(error)


@given(st.lists(st.binary(max_size=40) | st.binary(max_size=4).map(lambda tail: b"\x82\x40" + tail), max_size=4))
def test_what_no_encoder_writes_is_read_and_refused_alike(blocks):
    mine, other = FastDecoder(1 << 16), hpack.Decoder()
    for block in blocks:
        expected = outcome(other, block)
        assert outcome(mine, block) == expected
        if isinstance(expected, type):
            return  # the tables are of no use any more
        assert table(mine) == table(other)


def test_a_list_that_grows_too_large_is_refused():
    block = hpack.Encoder().encode([("x-large", "y" * 3_000)]) + b"\xbe" * 30
    with pytest.raises(hpack.OversizedHeaderListError):
        FastDecoder(64 << 10).decode(block)


def test_what_was_read_ahead_is_read_once():
    encoder, decoder = hpack.Encoder(), FastDecoder(1 << 16)
    block = encoder.encode([("x-one", "1")])
    fields = decoder.decode_early(block)
    decoder.store(block, fields)
    assert list(decoder.decode(block)) == [(b"x-one", b"1")]
    assert len(table(decoder)) == 1


def test_an_error_that_was_found_ahead_is_told_again():
    decoder = FastDecoder(1 << 16)
    assert decoder.decode_early(b"\xff\xff") is None
    with pytest.raises(hpack.HPACKError):
        decoder.decode(b"\xff\xff")


def test_secrets_are_neither_indexed_nor_remembered():
    encoder, decoder = FastEncoder(), FastDecoder(1 << 16)
    for _ in range(2):
        block = encoder.encode([NeverIndexedHeaderTuple(b"authorization", b"Basic eA==")])
        assert block[0] & 0xF0 == 0x10
        assert type(next(iter(decoder.decode(block)))) is NeverIndexedHeaderTuple
    assert not table(encoder)
    assert not encoder._written


def test_fields_that_differ_each_time_leave_the_table_to_others():
    encoder = FastEncoder()
    encoder.encode([(b"user-agent", b"test")])
    for number in range(200):
        encoder.encode([(b":path", b"/%d" % number), (b"user-agent", b"test")])
    assert table(encoder) == [(b"user-agent", b"test")]


def test_memory_is_bounded():
    encoder, decoder = FastEncoder(), FastDecoder(1 << 16)
    for number in range(10 * MAX_CACHED):
        decoder.decode(encoder.encode([(b":path", b"/%d" % number), (b"x-many", b"%d" % number)]))
    assert len(encoder._written) <= MAX_CACHED
    assert len(decoder._texts) <= MAX_CACHED


def test_long_fields_are_not_coded():
    value = b"a" * HUFFMAN_BYTES
    assert value in FastEncoder().encode([(b"x-long", value)])
