"""The judge by itself: reloads, live flows that are judged again, and schedules that begin and end."""

from __future__ import annotations

import asyncio
import math

import pytest

from proxy.policy.judge import PolicyJudge
from proxy.settings import DocumentError
from tests.flows import make_flow, make_tenant, make_tunnel
from tests.policy.files import source


class Handler:
    """Keeps why it was ended."""

    def __init__(self, flow):
        self.flow = flow

    def end(self, reason):
        self.flow.close(reason, 1)


def live_flows(count):
    tenant = make_tenant(flows=1_000_000)
    carrier = make_tunnel(tenant)
    flows = [make_flow(tenant, carrier=carrier, source_port=port + 1) for port in range(count)]
    for flow in flows:
        flow.handler = Handler(flow)
    return flows


def judged(text, flows):
    judge = PolicyJudge(source(text), ["acme"], lambda: flows)
    for flow in flows:
        flow.decisions = judge.judge(flow).decisions
    return judge


def test_live_flows_are_judged_again_slice_by_slice():
    flows = live_flows(2_000)
    judge = judged("rules: [{name: web, port: 80, action: allow}]", flows)
    judge.source = source("rules: [{name: closed, src: 100.96.0.0/12, port: 80, action: block, reason: tonight}]")
    turns = []

    async def reload():
        async def count():
            while True:
                turns.append(sum(flow.is_ended for flow in flows))
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        found = await judge.renew()
        counting.cancel()
        return found

    assert asyncio.run(reload()).revoked == 2_000
    assert {flow.close_reason for flow in flows} == {"policy_revoked"}
    assert [each.rule for each in flows[0].decisions] == ["web", "closed"]
    assert len(set(turns)) > 10  # others had their turns meanwhile


def test_a_flow_of_a_quarantined_device_ends_when_it_may_go_where_it_wants_and_the_other_way_round():
    flows = live_flows(1)
    judge = judged("rules: [{name: web, port: 80, action: allow}]", flows)
    judge.source = source('rules: [{name: sick, action: quarantine, origin: "10.0.0.1:80"}]')
    asyncio.run(judge.renew())
    assert (flows[0].close_reason, flows[0].verdict) == ("policy_revoked", "allowed")


def test_a_bad_file_is_told_and_changes_nothing():
    flows = live_flows(1)
    judge = judged("rules: [{name: web, port: 80, action: allow}]", flows)
    before = judge.policies
    judge.source = source("rules: 1")
    with pytest.raises(DocumentError):
        asyncio.run(judge.renew())
    assert judge.policies is before
    assert judge.problem == "acme.yaml:1:8: rules: expected list, got int (found 1)"
    assert not flows[0].is_ended


def test_live_flows_are_judged_again_when_a_schedule_changes():
    flows = live_flows(1)
    always = '{mon: "00:00-24:00", tue: "00:00-24:00", wed: "00:00-24:00", thu: "00:00-24:00", fri: "00:00-24:00"}'
    judge = judged(f"default: allow\nrules: [{{name: week, schedule: {always}, port: 81, action: block}}]", flows)
    first = judge._next_change
    assert first != math.inf

    async def run(now):
        judge.tick(now)
        if judge._again is not None:
            await judge._again

    asyncio.run(run(first - 1))
    assert judge._again is None
    asyncio.run(run(first))
    assert judge._again is not None
    assert judge._next_change > first
    assert not flows[0].is_ended


def test_who_is_to_be_asked_before_a_reload_is():
    asked = []

    async def before():
        asked.append(True)

    judge = PolicyJudge(source("default: deny"), ["acme"], list, before)
    asyncio.run(judge.renew())
    assert asked == [True]
