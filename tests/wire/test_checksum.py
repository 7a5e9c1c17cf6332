"""The Internet checksum: against RFC 1071's own loop and scapy, whole, incremental and partial."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from proxy.wire.checksum import checksum, delta, fold, ones_sum, pseudo_header_sum, update, update_partial
from tests.packets import rfc1071

words16 = st.integers(0, 0xFFFF)
even_bytes = st.binary(min_size=2, max_size=64).map(lambda data: data[: len(data) & ~1])


@given(st.binary(max_size=2000))
@example(b"")
@example(b"\x00" * 7)
@example(b"\xff" * 8)
@example(b"\xff\xfe\x00\x01")
def test_checksum_agrees_with_rfc1071_and_scapy(data):
    assert checksum(data) == rfc1071(data) == scapy_checksum(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_sum_takes_any_buffer(kind):
    assert ones_sum(kind(b"\x12\x34\x56")) == 0x1234 + 0x5600


def test_known_vector_of_rfc1071():
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def test_sum_is_zero_only_for_zeros():
    assert ones_sum(bytes(20)) == 0
    assert ones_sum(b"\xff\xff") == 0xFFFF
    assert ones_sum(b"\xff\xfe\x00\x01") == 0xFFFF


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_initial_sum_continues_an_even_prefix(first, second):
    first += bytes(len(first) % 2)
    assert checksum(second, ones_sum(first)) == rfc1071(first + second)


@given(st.lists(words16, max_size=64).map(sum))
def test_fold_keeps_the_value_modulo_65535(total):
    folded = fold(total)
    assert 0 <= folded <= 0xFFFF
    assert folded % 0xFFFF == total % 0xFFFF
    assert (folded == 0) == (total == 0)


@given(st.binary(min_size=20, max_size=200), even_bytes, st.integers(0, 200))
@example(b"\xff\xff" * 10, b"\x00\x00", 0)  # the sum becomes all ones: the field is 0, not 0xFFFF
@example(b"\x00\x01" + b"\xff\xff" * 9, b"\xff\xff", 0)
def test_update_is_the_checksum_of_the_changed_data(data, new, at):
    at = at % (len(data) - 1) & ~1
    old = data[at : at + len(new)][: len(new)]
    new = new[: len(old) & ~1]
    old = old[: len(new)]
    changed = data[:at] + new + data[at + len(new) :]
    if not any(data) or not any(changed):
        return  # a sum of zero cannot be reached or left by addition; no header is all zeros
    assert update(checksum(data), delta(old, new)) == checksum(changed)


@given(st.binary(min_size=12, max_size=12), st.binary(min_size=8, max_size=8), words16)
def test_update_partial_is_the_pseudo_header_sum_of_the_new_addresses(old, new, length):
    before = pseudo_header_sum(old[:8], 6, length)
    after = pseudo_header_sum(new, 6, length)
    assert update_partial(before, delta(old[:8], new)) == after


@given(words16, st.integers(0, 0xFFFE))
def test_updates_stay_in_sixteen_bits(field, change):
    assert 0 <= update(field, change) <= 0xFFFF
    assert 0 <= update_partial(field, change) <= 0xFFFF


@given(st.integers(0, 0xFFFE), even_bytes)
def test_no_change_leaves_the_field_alone(field, data):
    assert delta(data, data) == 0
    assert update(field, 0) == field
    assert update_partial(field, 0) == field


@given(st.integers(0, 0xFFFE))
def test_the_two_names_of_zero_are_one_field(change):
    """Headers that hold anything never sum to zero, so no sender of ours writes 0xFFFF."""
    assert update(0xFFFF, change) == update(0, change)
    assert update_partial(0xFFFF, change) == update_partial(0, change)


@given(st.sampled_from([8, 32]), st.data(), st.integers(0, 255), st.integers(0, 0xFFFFFFFF))
def test_pseudo_header_sum_agrees_with_its_bytes(size, data, protocol, length):
    addresses = data.draw(st.binary(min_size=size, max_size=size))
    laid_out = addresses + struct.pack("!I3xB", length, protocol)
    assert pseudo_header_sum(addresses, protocol, length) == 0xFFFF - rfc1071(laid_out)
