"""Community ids: against the reference implementation, and in both directions."""

from __future__ import annotations

import ipaddress

import communityid
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.flow.community import community_id

ports = st.integers(0, 65_535)
pairs = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6))
)


def reference(src: bytes, dst: bytes, protocol: int, src_port: int, dst_port: int, seed: int = 0) -> str:
    tuple_ = communityid.FlowTuple(protocol, src, dst, src_port, dst_port)
    return str(communityid.CommunityID(seed=seed).calc(tuple_))


def test_known_vector_of_the_specification():
    src, dst = (ipaddress.ip_address(text).packed for text in ("128.232.110.120", "66.35.250.204"))
    assert community_id(src, dst, 6, 34_855, 80) == "1:LQU9qZlK+B5F3KDmev6m5PMibrg="


@given(pairs, ports, ports, st.sampled_from([6, 17, 132]), st.sampled_from([0, 1, 65_535]))
def test_agrees_with_reference(addresses, src_port, dst_port, protocol, seed):
    src, dst = (address.packed for address in addresses)
    expected = reference(src, dst, protocol, src_port, dst_port, seed)
    assert community_id(src, dst, protocol, src_port, dst_port, seed=seed) == expected
    assert community_id(dst, src, protocol, dst_port, src_port, seed=seed) == expected


@given(pairs, st.integers(0, 255), st.integers(0, 255), st.sampled_from([1, 58]))
def test_icmp_agrees_with_reference(addresses, kind, code, protocol):
    src, dst = (address.packed for address in addresses)
    assert community_id(src, dst, protocol, kind, code) == reference(src, dst, protocol, kind, code)


@pytest.mark.parametrize(("protocol", "request_", "reply"), [(1, 8, 0), (58, 128, 129)])
def test_echo_request_and_reply_share_an_id(protocol, request_, reply):
    src, dst = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"
    assert community_id(src, dst, protocol, request_, 0) == community_id(dst, src, protocol, reply, 0)
