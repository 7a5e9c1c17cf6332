"""The cost of policies: evaluating a rule, deciding a flow, judging live flows again, loading files; and flows per
second with and without 200 rules.

In memory: rules and facts, and UDP flows from a tunnel to their end records in the flow log. Then fresh TCP connections
through two proxies, of which one has the rules.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.contestants import OFFLOAD, Contestant, Proxy, started, steered
from bench.flowlog import populate
from bench.flowpath import FlowPath
from bench.programs import http_load, http_origin
from bench.series import Figure, Sample, alternate
from bench.topology import Topology
from proxy.flow.flow import Flow
from proxy.flow.tenant import Tenant
from proxy.policy.facts import FlowFacts
from proxy.policy.judge import PolicyJudge
from proxy.policy.source import FileSource
from proxy.settings.model import Limits, TenantSettings

SIZES = (200, 10_000)
FLOWS, QUICK_FLOWS = 20_000, 5_000
LIVE, QUICK_LIVE = 100_000, 10_000
MOST_US, LEAST_FLOWS, MOST_AGAIN_S = 1.0, 8_000, 1.0
PER_RULE, PER_FLOW, LOAD, PER_S = "us a rule evaluated", "us a flow decided", "s to load", "flows/s"
FRESH, FAILED, WITH_RULES, LEAST_RATIO = "fresh conn/s", "failed", "proxy with 200 rules", 0.9
REVIEW, PER_LIVE = "200 rules, live flows judged again", "us a live flow"
BARE, RULED = "no policy", "200 rules, flows begun and ended"


def rules(count: int) -> str:
    """A policy with this many rules, of five kinds; the last one decides."""
    lines = ["default: deny", "rules:"]
    kinds = (
        "group: g{0}, dst: 10.{1}.{2}.0/24, port: 443, action: allow",
        "user: u{0}@acme.example, action: block",
        "dst: [10.{1}.0.0/16], port: {3}-{4}, protocol: tcp, action: block",
        "host: '*.h{0}.example', action: block",
        "when: 'net.dst.port == {3} and net.src.ip in {{100.64.0.0/10}} and not net.dst.ip in {{10.0.0.0/8}}', "
        "action: audit",
    )
    for number in range(count - 1):
        said = kinds[number % len(kinds)].format(number, number % 256, number // 256, 1000 + number, 2000 + number)
        lines.append(f"- {{name: r{number}, {said}}}")
    return "\n".join([*lines, "- {name: last, action: allow}"])


def loaded(count: int, live: Callable[[], Iterable[Flow]] = list) -> tuple[PolicyJudge, float]:
    """A judge with this many rules, and the seconds that loading took."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "acme.yaml")
        path.write_text(rules(count))
        began = time.perf_counter()
        return PolicyJudge(FileSource([], [("acme", str(path))]), ["acme"], live), time.perf_counter() - began


class RuledProxy(Proxy):
    """The proxy with this many rules in force."""

    def __init__(self, topology: Topology, count: int) -> None:
        path = topology.directory / "policy.yaml"
        path.write_text(rules(count))
        super().__init__(policies=[str(path)])
        self.name, self.device = WITH_RULES, "oxy2"


def measure(topology: Topology, *, quick: bool) -> Figure:
    figure = Figure(
        "policy", "Policies, on one core, in memory; flows are UDP, forwarded, with records", (BARE, OFFLOAD)
    )
    judges = {count: loaded(count) for count in SIZES}
    with FlowPath() as path:
        runs = [(f"{count:,} rules", _judging(path, *judges[count])) for count in SIZES]
        flows = QUICK_FLOWS if quick else FLOWS
        runs += [(BARE, _flowing(path, None, flows)), (RULED, _flowing(path, judges[SIZES[0]][0], flows))]
        alternate(figure, 2 if quick else 5, runs)
    alternate(figure, 2 if quick else 5, [(REVIEW, _reviewing(QUICK_LIVE if quick else LIVE))])
    with http_origin(topology), started(topology, (Proxy(), RuledProxy(topology, 200)), figure.skipped) as proxies:
        alternate(figure, 2 if quick else 5, [(each.name, _fresh(topology, each, quick)) for each in proxies])
    figure.aim_at_none("connections that failed", figure.median(WITH_RULES, FAILED))
    figure.aim("fresh TCP connections, of those without rules", figure.ratio(WITH_RULES, OFFLOAD, FRESH), LEAST_RATIO)
    figure.aim("us for a rule evaluated", figure.median("200 rules", PER_RULE), MOST_US, at_most=True)
    again_s = figure.median(REVIEW, PER_LIVE) * LIVE / 1e6
    figure.aim(f"s of processor time for {LIVE:,} live flows judged again", again_s, MOST_AGAIN_S, at_most=True)
    figure.aim("flows/s, begun and ended, records on, with 200 rules", figure.median(RULED, PER_S), LEAST_FLOWS)
    return figure


def _judging(path: FlowPath, judge: PolicyJudge, load_s: float) -> Callable[[], Sample]:
    def run() -> Sample:
        policies, flow = judge.policies, path.flow()
        each = list(policies.rules())
        facts = FlowFacts(flow, 0.0)
        rounds = max(1, 10_000 // len(each))
        per_rule = _microseconds(lambda: [rule.matches(facts) for rule in each], rounds) / len(each)
        per_flow = _microseconds(lambda: judge.judge(flow), 5_000)
        return {PER_RULE: per_rule, PER_FLOW: per_flow, LOAD: load_s}

    return run


def _reviewing(count: int) -> Callable[[], Sample]:
    """Judge this many live flows again, by a version that allows all of them."""
    tenant = Tenant("acme", TenantSettings(limits=Limits(flows=count + 1)))
    populate(tenant, count)
    judge, _ = loaded(SIZES[0], lambda: (flow for flows in tenant.slices() for flow in flows))
    for flow in tenant.live():
        flow.handler, flow.decisions = _Nobody(), judge.judge(flow).decisions

    def run() -> Sample:
        began = time.process_time()
        asyncio.run(judge.judge_again())
        return {PER_LIVE: (time.process_time() - began) / count * 1e6}

    return run


class _Nobody:
    """The handler of a flow without traffic."""

    def end(self, reason: str) -> None:
        raise AssertionError(f"no rule denies it, and yet it ends: {reason}")


def _flowing(path: FlowPath, judge: PolicyJudge | None, flows: int) -> Callable[[], Sample]:
    return lambda: {PER_S: path.flows_per_s(judge, flows)}


def _fresh(topology: Topology, proxy: Contestant, quick: bool) -> Callable[[], Sample]:
    def run() -> Sample:
        with steered(topology, proxy):
            report = http_load(topology, "fresh", 1, 1.5 if quick else 3)
        return {FRESH: report["done"] / report["seconds"], FAILED: report["failed"]}

    return run


def _microseconds(work: Callable[[], object], rounds: int) -> float:
    work()
    began = time.process_time()
    for _ in range(rounds):
        work()
    return (time.process_time() - began) / rounds * 1e6
