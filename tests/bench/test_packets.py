"""The search for the highest loss-free rate, and the packets that both hot loops are given."""

from __future__ import annotations

import pytest

from bench.hotloop import VIRTUAL, memoised, packet
from bench.packets import FIRST_RATE, PRECISION, search
from proxy.wire import ip
from proxy.wire.ip import IPPacket


@pytest.mark.parametrize("capacity", [120, 1_999, 2_000, 37_500, 250_000])
def test_search_comes_close_to_the_capacity_from_below(capacity: float) -> None:
    found = search(lambda rate: rate if rate <= capacity else 0)
    assert capacity / PRECISION <= found <= capacity


def test_search_ends_where_the_sender_can_no_more() -> None:
    assert search(lambda rate: min(rate, 5 * FIRST_RATE)) == 5 * FIRST_RATE


def test_search_finds_nothing_when_everything_is_lost() -> None:
    assert search(lambda rate: 0) == 0


@pytest.mark.parametrize("size", [100, 1280])
def test_packets_are_well_formed_and_of_one_flow_each(size: int) -> None:
    packets = [packet(number, size) for number in range(300)]
    for raw in packets:
        parsed = ip.parse(raw, 0, len(raw))
        assert isinstance(parsed, IPPacket)
        assert (parsed.protocol, parsed.end) == (ip.TCP, size)
    paths = memoised(packets)
    assert len(paths) == 300
    assert all(path.rewritten[:8] == VIRTUAL for path in paths.values())
