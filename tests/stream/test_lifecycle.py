"""What is told of a flow, to whom, how often; and timers whose failure stays with their flow."""

from __future__ import annotations

import pytest

from proxy.hooks import HookRunner, Hooks
from proxy.stream.descriptors import Descriptors
from proxy.stream.lifecycle import UPDATES_PER_TICK, Lifecycle
from tests.flows import make_flow, make_tenant


class Handler:
    def __init__(self, flow, lifecycle):
        self.flow, self.lifecycle, self.woken, self.ends = flow, lifecycle, [], []

    def expired(self, now):
        self.woken.append(now)

    def end(self, reason):
        self.ends.append(reason)

    def replaced(self):
        self.ends.append("replaced")


@pytest.fixture
def lifecycle():
    return Lifecycle("edge", HookRunner(Hooks()), Descriptors(2))


def begin(lifecycle, tenant=None, **fields):
    flow = make_flow(tenant, **fields)
    started = []
    lifecycle.begin(flow, Handler(flow, lifecycle), lambda: started.append(flow))
    assert started == [flow]
    return flow


def told(lifecycle, *events):
    records = []
    lifecycle.subscribe(records.append, *events)
    return records


def test_each_event_is_told_once_and_numbered(lifecycle):
    records = told(lifecycle)
    flow = begin(lifecycle)
    lifecycle.connected(flow)
    flow.close("client_closed", 2_000_000)
    lifecycle.ended(flow)
    lifecycle.removed(flow)
    assert [(r.event, r.seq, r.state) for r in records] == [
        ("start", 0, "new"), ("connected", 1, "established"), ("end", 2, "closed"),
    ]  # fmt: skip
    assert flow.is_recorded
    assert (lifecycle.flows, flow.tenant.count) == (0, 0)


def test_numbers_go_on_when_nobody_listens(lifecycle):
    flow = begin(lifecycle)
    lifecycle.connected(flow)
    records = told(lifecycle, "end")
    flow.close("drain", 2_000_000)
    lifecycle.ended(flow)
    assert [(r.event, r.seq) for r in records] == [("end", 2)]


def test_subscriber_hears_what_it_asked_for_until_it_leaves(lifecycle):
    ends, everything = [], []
    leave = lifecycle.subscribe(ends.append, "end")
    lifecycle.subscribe(everything.append)
    for _ in range(2):
        flow = begin(lifecycle)
        flow.close("drain", 1)
        lifecycle.ended(flow)
        lifecycle.removed(flow)
        leave = leave() or (lambda: None)
    assert ([r.event for r in ends], len(everything)) == (["end"], 4)


def test_subscriber_may_leave_while_it_is_told(lifecycle):
    heard = []

    def once(record):
        heard.append(record.event)
        leave()

    leave = lifecycle.subscribe(once)
    others = told(lifecycle)
    begin(lifecycle)
    assert heard == ["start"]
    assert len(others) == 1


def test_failing_timer_ends_its_flow_and_wakes_the_others(lifecycle, caplog):
    flows = [begin(lifecycle, source_port=port) for port in range(3)]
    for flow in flows:
        lifecycle.wheel.arm(flow, 1)
    flows[0].handler.expired = lambda now: 1 / 0
    lifecycle.tick(2)
    assert flows[0].handler.ends == ["proxy_error"]
    assert [len(flow.handler.woken) for flow in flows[1:]] == [1, 1]
    assert "ZeroDivisionError" in caplog.text


def test_failing_start_ends_its_flow(lifecycle, caplog):
    flow = make_flow()
    handler = Handler(flow, lifecycle)
    lifecycle.begin(flow, handler, lambda: 1 / 0)
    assert handler.ends == ["proxy_error"]
    assert "ZeroDivisionError" in caplog.text


def test_idle_is_nothing_moved_for_the_whole_timeout(lifecycle):
    flow = begin(lifecycle)
    lifecycle.watch_idle(flow, 40, 0)
    assert [lifecycle.is_idle(flow, 40, at) for at in (10, 20, 30)] == [False] * 3
    flow.client_payload += 1
    assert [lifecycle.is_idle(flow, 40, at) for at in (40, 50, 60, 70, 80)] == [False, False, False, False, True]


def test_updates_are_of_flows_that_moved_each_once_in_a_period(lifecycle):
    tenant = make_tenant()
    records = told(lifecycle, "update")
    moved, still, unborn = (begin(lifecycle, tenant, source_port=port) for port in range(3))
    for flow in (moved, still):
        lifecycle.connected(flow)
    moved.client_payload = 5
    for at in (0, 1, 29):
        lifecycle.send_updates([tenant], 30, at)
    assert [(r.flow_id, r.src_port, r.delta.client_payload_bytes) for r in records] == [("f0", 0, 5), ("f0", 1, 0)]
    lifecycle.send_updates([tenant], 30, 30)
    assert len(records) == 2  # nothing moved since
    moved.client_payload = 7
    lifecycle.send_updates([tenant], 30, 60)
    assert (records[2].delta.client_payload_bytes, records[2].total.client_payload_bytes) == (2, 7)
    assert not unborn.last_totals


def test_updates_of_many_flows_come_in_slices():
    lifecycle, tenant = Lifecycle("edge", HookRunner(Hooks()), Descriptors(10_000)), make_tenant()
    records = told(lifecycle, "update")
    for number in range(UPDATES_PER_TICK + 10):
        lifecycle.connected(begin(lifecycle, tenant, source_port=number))
    lifecycle.send_updates([tenant], 30, 0)
    assert len(records) == UPDATES_PER_TICK
    lifecycle.send_updates([tenant], 30, 0.25)
    assert len(records) == UPDATES_PER_TICK + 10


def test_snapshot_changes_nothing(lifecycle):
    flow = begin(lifecycle)
    assert lifecycle.snapshot(flow).seq == lifecycle.snapshot(flow).seq == 1
