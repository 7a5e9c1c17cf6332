"""Order, simultaneity and repetition of checks, with made-up verdicts."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from oxyctl.checks import junit, runner
from oxyctl.checks.records import sum_of
from oxyctl.checks.result import Evidence, Result, Verdict
from oxyctl.cli.check import select
from oxyctl.errors import NothingMatched, OxyctlError
from oxyctl.topology.checks import ExecCheck, FlowsCheck, PingCheck

PING = "kind: ping, from: laptop, to: 10.0.0.%d, name: p%d"
MET, NOT_MET = Verdict(True, "a", "b", "c"), Verdict(False, "tried", "expected", "actual")


@pytest.fixture
def run(monkeypatch):
    """The results of these checks by the verdicts of `judge`."""

    async def nothing(check, node, session):
        return []

    monkeypatch.setattr(runner, "collect", nothing)

    def call(checks, judge, at_once=8):
        for kind in (PingCheck, ExecCheck, FlowsCheck):
            monkeypatch.setitem(runner.JUDGES, kind, judge)

        async def main():
            return [result async for result in runner.run(checks, None, at_once)]

        return asyncio.run(main())

    return call


def test_neighbours_run_at_once_and_results_keep_the_order(run, checks):
    everybody, others = asyncio.Barrier(3), asyncio.Barrier(3)
    ended = []

    async def judge(check, node, session):
        await everybody.wait()
        if check.name != "p0":
            ended.append(check.name)
        await others.wait()
        if check.name == "p0":
            ended.append(check.name)
        return MET

    results = run(checks(*(PING % (n, n) for n in range(3))), judge)
    assert [result.name for result in results] == ["p0", "p1", "p2"]
    assert ended[-1] == "p0"


def test_no_more_run_at_once_than_are_wanted(run, checks):
    running, most = [], []

    async def judge(check, node, session):
        running.append(check.name)
        most.append(len(running))
        await asyncio.sleep(0)
        running.remove(check.name)
        return MET

    assert len(run(checks(*(PING % (n, n) for n in range(4))), judge, at_once=2)) == 4
    assert max(most) == 2


def test_a_program_runs_alone_and_records_are_read_after_all_before(run, checks):
    running, together = [], []

    async def judge(check, node, session):
        running.append(check.kind)
        together.append(sorted(running))
        await asyncio.sleep(0)
        running.remove(check.kind)
        return MET

    program = "kind: exec, from: laptop, command: [x%d]"
    flows = "kind: flows, tenant: acme, where: {port: %d}"
    run(checks(PING % (1, 1), PING % (2, 2), program % 1, program % 2, flows % 1, flows % 2, PING % (3, 3)), judge)
    assert [kinds for kinds in together if len(set(kinds)) > 1 or kinds.count("exec") > 1] == []
    assert ["ping", "ping"] in together
    assert ["flows", "flows"] in together


def test_no_more_than_so_many_at_once(run, checks):
    running, most = set(), []

    async def judge(check, node, session):
        running.add(check.name)
        most.append(len(running))
        for _ in range(5):
            await asyncio.sleep(0)
        running.discard(check.name)
        return MET

    run(checks(*(PING % (n, n) for n in range(30))), judge)
    assert max(most) == runner.DEFAULT_JOBS


def test_a_check_of_several_nodes_is_tried_from_each(run, checks):
    async def judge(check, node, session):
        return MET if node == "laptop" else NOT_MET

    results = run(checks("kind: ping, name: p, from: [laptop, phone], to: web"), judge)
    assert [(result.name, result.node, result.state) for result in results] == [
        ("p (from laptop)", "laptop", "passed"),
        ("p (from phone)", "phone", "failed"),
    ]


def test_a_check_is_tried_again_until_it_is_met(run, checks):
    verdicts = iter([NOT_MET, NOT_MET, MET])

    async def judge(check, node, session):
        return next(verdicts)

    (result,) = run(checks(PING % (1, 1) + ", retry_until: 30s"), judge)
    assert (result.state, result.attempts) == ("passed", 3)


def test_a_check_is_tried_until_its_time_is_over_or_once(run, checks):
    async def judge(check, node, session):
        return NOT_MET

    often, once = run(checks(PING % (1, 1) + ", retry_until: 250ms", PING % (2, 2)), judge)
    assert (often.state, once.state, once.attempts) == ("failed", "failed", 1)
    assert 2 <= often.attempts <= 4
    assert often.describe()[:3] == ["tried:    tried", "expected: expected", "actual:   actual"]
    assert often.describe()[3].startswith(f"attempts: {often.attempts} in ")


def test_a_first_attempt_may_take_longer_than_all_others_may(run, checks, monkeypatch):
    verdicts, now = iter([NOT_MET, MET]), [0.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now[0]))

    async def judge(check, node, session):
        now[0] += 60
        return next(verdicts)

    (result,) = run(checks(PING % (1, 1) + ", retry_until: 10s"), judge)
    assert (result.state, result.attempts) == ("passed", 2)


def test_what_cannot_be_tried_is_broken(run, checks):
    async def judge(check, node, session):
        raise OxyctlError("the lab has just ended")

    (result,) = run(checks(PING % (1, 1)), judge)
    assert (result.state, result.actual) == ("broken", "could not be carried out: the lab has just ended")


# which of them


def test_checks_are_chosen_by_name_or_pattern(checks):
    one, two = found = checks(PING % (1, 1), PING % (2, 2))
    assert select(found, []) == [one, two]
    assert select(found, ["p2"]) == [two]
    assert select(found, ["p?"]) == [one, two]
    with pytest.raises(NothingMatched, match=r"no check is called 'pp1'; did you mean 'p1'\?"):
        select(found, ["p1", "pp1"])


# counters

METRICS = """# HELP oxy_flows Live flows.
# TYPE oxy_flows gauge
oxy_flows{tenant="acme",protocol="tcp"} 3
oxy_flows{tenant="acme",protocol="udp"} 1.5
oxy_flows{tenant="a \\"b\\" \\\\n",protocol="tcp"} 10
# TYPE oxy_drops_total counter
oxy_up 1
"""


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("oxy_flows", {"tenant": "acme"}, 4.5),
        ("oxy_flows", {"tenant": "acme", "protocol": "udp"}, 1.5),
        ("oxy_flows", {}, 14.5),
        ("oxy_flows", {"tenant": 'a "b" \\n'}, 10),
        ("oxy_flows", {"tenant": "zeta"}, 0),
        ("oxy_drops_total", {}, 0),
        ("oxy_up", {}, 1),
        ("oxy", {}, None),
    ],
)
def test_the_sum_of_samples(name, labels, value):
    assert sum_of(METRICS, name, labels) == value


# JUnit


def result(state, **more):
    fields = {"name": f"a {state} check", "kind": "http", "node": "laptop", "duration_ms": 1500.0, "attempts": 1}
    return Result(**{**fields, "state": state, "tried": "GET", "expected": "200", "actual": "503", **more})


def test_junit_says_what_ci_systems_read():
    evidence = [Evidence("the log", ["line <1>", "bell \x07 & \ud800"])]
    xml = junit.to_xml("demo", [result("passed"), result("failed", evidence=evidence), result("broken")], 10**18)
    root = ElementTree.fromstring(xml)
    (suite,) = root
    counts = {"tests": "3", "failures": "1", "errors": "1", "skipped": "0", "time": "4.500"}
    assert root.tag == "testsuites"
    assert counts.items() <= root.attrib.items()
    assert {"name": "demo", "timestamp": "2001-09-09T01:46:40", **counts} == suite.attrib
    passed, failed, broken = suite
    assert passed.attrib == {"classname": "demo.http", "name": "a passed check", "time": "1.500"}
    assert (len(passed), failed[0].tag, broken[0].tag) == (0, "failure", "error")
    assert failed[0].attrib == {"message": "503", "type": "CheckFailed"}
    assert "line <1>" in failed[0].text
    assert "bell \N{REPLACEMENT CHARACTER} & \N{REPLACEMENT CHARACTER}" in failed[0].text
