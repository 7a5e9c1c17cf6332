"""The judge by itself: reloads, live flows that are judged again, and schedules that begin and end."""

from __future__ import annotations

import asyncio
import math
import os
from functools import partial

import pytest

from proxy.flow.record import TLSRecord
from proxy.policy.judge import PolicyJudge
from proxy.policy.load import check_body_hook
from proxy.policy.source import FileSource
from proxy.settings import DocumentError
from proxy.verdict import Decision
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
        found = await judge.reload_and_report()
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
    asyncio.run(judge.reload_and_report())
    assert (flows[0].close_reason, flows[0].verdict) == ("policy_revoked", "allowed")


def test_a_bad_file_is_told_and_changes_nothing():
    flows = live_flows(1)
    judge = judged("rules: [{name: web, port: 80, action: allow}]", flows)
    before = judge.policies
    judge.source = source("rules: 1")
    with pytest.raises(DocumentError):
        asyncio.run(judge.reload_and_report())
    assert judge.policies is before
    assert judge.problem == "acme.yaml:1:8: rules: expected a list (found 1)"
    assert not flows[0].is_ended


def test_live_flows_are_judged_again_when_a_schedule_changes():
    flows = live_flows(1)
    always = '{mon: "00:00-24:00", tue: "00:00-24:00", wed: "00:00-24:00", thu: "00:00-24:00", fri: "00:00-24:00"}'
    judge = judged(f"default: allow\nrules: [{{name: week, schedule: {always}, port: 81, action: block}}]", flows)
    first = judge._next_change
    assert first != math.inf

    async def run(now):
        judge.tick(now)
        if judge._rejudging is not None:
            await judge._rejudging

    asyncio.run(run(first - 1))
    assert judge._rejudging is None
    asyncio.run(run(first))
    assert judge._rejudging is not None
    assert judge._next_change > first
    assert not flows[0].is_ended


def test_a_rule_may_speak_of_the_name_that_a_live_flow_has_shown():
    flows = live_flows(2)
    flows[0].tls = TLSRecord(sni="games.example")
    judge = judged("default: allow", flows)
    judge.source = source("rules: [{name: no-games, host: games.example, action: block}]")
    asyncio.run(judge.reload_and_report())
    assert [flow.close_reason for flow in flows] == ["policy_revoked", None]


def test_what_inspectors_decided_is_counted_by_rule():
    judge = PolicyJudge(
        source("rules: [{name: web, port: 80, action: allow}]", of_all="rules: [{name: web, port: 81, action: allow}]"),
        ["acme"],
        list,
    )
    by = {"stage": "http", "action": "allow", "version": "v"}
    said = [
        Decision(policy="acme", rule="web", **by),
        Decision(policy="all", rule="web", **by),
        Decision(policy="acme", rule="gone", **by),
        Decision(policy="acme", rule="default", **by),
        Decision(policy="hook", rule="web", stage="http", action="allow"),
    ]
    judge.count("acme", said)
    judge.count("acme", said[:1])
    assert [(each.policy, each.hits) for info in judge.describe(text=False) for each in info.rules] == [
        ("all", 1), ("acme", 2),
    ]  # fmt: skip
    assert judge.policies.hits.counts == {("acme", "http"): 1}


def test_files_that_change_are_loaded_when_they_stay_as_they_are(tmp_path):
    policy, hosts = tmp_path / "acme.yaml", tmp_path / "hosts.txt"
    policy.write_text(
        "lists: {bad: {file: hosts.txt}}\nrules: [{name: bad, when: net.dst.host in $bad, action: block}]"
    )
    hosts.write_text("a.example\n")
    files = FileSource([], [("acme", str(policy))])
    judge = PolicyJudge(files, ["acme"], list, state=files.state)
    versions = [judge.policies.version]

    async def look():
        now = 0.0
        for change in ("b.example\n", "c.example\n", None, None, None):
            if change:
                hosts.write_text(change)
                os.utime(hosts, ns=(0, int(1e9 + now * 1e9)))
            now += 1
            judge.tick(now)
            if judge._reload_task is not None:
                await judge._reload_task
            versions.append(judge.policies.version)

    asyncio.run(look())
    assert len(set(versions)) == 2  # what was there for one look alone was not loaded
    assert versions[2] == versions[0] != versions[3] == versions[-1]
    hosts.unlink()

    async def look_again():
        for now in (10.0, 11.0, 12.0):
            judge.tick(now)
            if judge._reload_task is not None:
                await judge._reload_task

    asyncio.run(look_again())
    assert judge.policies.version == versions[-1]
    assert judge.problem is not None
    assert "hosts.txt" in judge.problem


def test_who_is_to_be_asked_before_a_reload_is():
    asked = []

    async def before():
        asked.append(True)

    judge = PolicyJudge(source("default: deny"), ["acme"], list, before)
    asyncio.run(judge.reload_and_report())
    assert asked == [True]


def test_bodies_are_to_be_read_only_where_the_application_has_a_hook_for_them():
    def judging(text, *hooks):
        return PolicyJudge(source(text), ["acme"], list, check=partial(check_body_hook, hooks.__contains__))

    wish = "rules:\n- {name: scan, phase: http, action: inspect-body}"
    judging(wish, "http_body")
    judging("rules: [{name: scan, phase: http, action: inspect-body, enabled: false}]")
    with pytest.raises(DocumentError, match=r":2:1: rule 'scan': inspect-body needs an application with the hook"):
        judging(wish, "http_request")
    judge = judging("default: deny")
    judge.source = source(wish)
    with pytest.raises(DocumentError, match="inspect-body needs"):
        asyncio.run(judge.reload_and_report())
    assert not [*judge.policies.rules()]
