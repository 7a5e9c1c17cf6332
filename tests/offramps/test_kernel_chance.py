"""Many conversations at once, drawn by chance: hosts see of each other what they see through a plain router.

And the records are true: each flow once, with its end, and with the packets and bytes that conntrack has counted.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict

import pytest

from proxy.flow.flow import PROTOCOL_NUMBERS, address_text
from proxy.kernel.conntrack import ConntrackEvents
from tests.netns import needs_root
from tests.offramps.chance import draw, hold
from tests.offramps.kernel_scene import entries, ip, scene
from tests.running import until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]
SEED, COUNT = 7, 40
WAYS = ("interface", "site", "connected", "offload", "sockets")
SITE = "  - {kind: interface, interfaces: [out, small], tenant: acme}\n"
TIMEOUTS = "timeouts: {connect_s: 2}\n"
FAILURES = {"refused": ("origin_refused", "Sr"), "unreachable": ("origin_unreachable", "S"),
            "silent": ("origin_timeout", "S")}  # fmt: skip
PROTOCOLS = {"datagrams": "udp", "refused datagrams": "udp", "unheard": "udp"}
SIDES = ("client", "origin")


@contextlib.contextmanager
def on_the_way(way):
    """A scene of this kind, and the events of its conntrack about entries that are gone."""
    kind = {"site": "interface", "sockets": "connected"}.get(way, way)
    options = {"more": (SITE if way == "site" else "") + TIMEOUTS} if way != "router" else {}
    if way == "sockets":
        options["tenant"] = "offramp: sockets"
    with scene(kind, **options) as made:
        if way == "site":
            ip(made.origin, "route add 10.1.0.0/24 via 10.2.0.1\n-6 route add fd01::/64 via fd02::1")
        made.events = made.edge.run(ConntrackEvents)
        try:
            yield made
        finally:
            made.events.close()


def held(way, seed, count):
    """The conversations on that way, the records by what was counted of them, and conntrack's counts."""
    conversations = draw(seed, count)
    with on_the_way(way) as stage:
        hold(stage, conversations)
        if stage.proxy is None:
            return conversations, {}, {}
        until(lambda: not stage.proxy.live(protocol="tcp"))
        records = defaultdict(list)
        for record in (*stage.proxy.ended(), *stage.proxy.live()):
            records[record.protocol, record.src_port, record.dst].append(record)
        counted = defaultdict(Counter)
        for entry in (*(entry for _, entry in stage.events.read(10_000)), *entries(stage.edge)):
            size = 4 if len(entry.original) < 16 else 16
            port = int.from_bytes(entry.original[2 * size : 2 * size + 2], "big")
            place = entry.protocol, port, address_text(entry.original[size : 2 * size])
            counts = entry.original_packets, entry.original_octets, entry.reply_packets, entry.reply_octets
            counted[place][counts] += 1
        return conversations, records, counted


@pytest.fixture(scope="module")
def plain():
    """What two hosts see of each other through a router."""
    conversations, _, _ = held("router", SEED, COUNT)
    return [one.seen for one in conversations]


def place_of(one):
    protocol = PROTOCOLS.get(one.kind, "tcp")
    if one.kind == "ping":
        protocol = {4: "icmp", 6: "icmpv6"}[one.version]
    return protocol, one.source_port, one.address


def ends_of(one):
    """The reasons and histories that its records must have, one of these for each."""
    if one.kind in FAILURES:
        return [{FAILURES[one.kind]}]
    if place_of(one)[0] != "tcp":
        return [{(None, "Dd" if one.datagrams[1] else "D")}]
    if one.kind == "again":
        return [{(f"{SIDES[side]}_reset", "ShAR" if not side else "ShAr")} for side in one.resets]
    shut = [side for step, side, _ in one.steps if step == "shut"]
    how, side = one.end
    closed = [("client_closed", "ShAFf"), ("origin_closed", "ShAfF")]
    if how == "at once":
        return [set(closed)]
    if how == "close":
        return [{closed[(*shut, side)[0]]}]
    return [{(f"{SIDES[side]}_reset", "ShAR" if not side else "ShAr")}]


def faults(one, records, counted, way):
    """What is not true of it in its records."""
    expected = ends_of(one)
    records = sorted(records, key=lambda record: record.start)
    if len(records) != len(expected):
        yield f"{len(records)} records"
        return
    for record, ends in zip(records, expected, strict=True):
        if (record.close_reason, record.history) not in ends:
            yield f"ended as {record.close_reason} {record.history}"
        if (record.state == "closed") != (record.close_reason is not None):
            yield f"state {record.state}"
    totals = [record.total for record in records]
    packets = sum(total.client_packets for total in totals), sum(total.origin_packets for total in totals)
    payload = sum(total.client_payload_bytes for total in totals), sum(total.origin_payload_bytes for total in totals)
    if one.datagrams != [0, 0] and packets != tuple(one.datagrams):
        yield f"packets {packets}"
    if one.kind in ("talk", "again") and one.end[0] != "reset in flight" and payload != tuple(one.sent):
        yield f"payload {payload}"
    if one.kind in FAILURES and packets != (1, one.kind == "refused"):
        yield f"packets {packets}"
    if way in ("interface", "site"):
        counts = Counter((t.client_packets, t.client_bytes, t.origin_packets, t.origin_bytes) for t in totals)
        if counts != counted:
            yield f"{counts}, but conntrack {counted}"


@pytest.mark.parametrize("way", WAYS)
def test_all_that_is_seen_and_recorded_is_as_by_a_router(way, plain):
    conversations, records, counted = held(way, SEED, COUNT)
    found = []
    for one, expected in zip(conversations, plain, strict=True):
        place = place_of(one)
        if one.seen != expected:
            found.append((one, f"through a router: {expected}"))
        counts = counted[PROTOCOL_NUMBERS[place[0]], *place[1:]]
        found += [(one, fault) for fault in faults(one, records[place], counts, way)]
    assert not [one for one in conversations if "failed" in " ".join(one.seen)]
    assert not found, f"seed {SEED}: {found}"
