"""Order of checks: harmless ones in parallel, disruptive ones one by one; results in the order of the file."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from oxyctl.checks import DEFAULT_JOBS, links, nodes, policies, probes, records
from oxyctl.checks.evidence import collect
from oxyctl.checks.result import Result, Verdict
from oxyctl.checks.session import Session
from oxyctl.errors import OxyctlError
from oxyctl.topology.checks import (
    DnsCheck,
    DroppedCheck,
    ExecCheck,
    FlowsCheck,
    HttpCheck,
    ImpairCheck,
    MetricCheck,
    NodeCheck,
    PingCheck,
    PolicyCheck,
    TcpCheck,
    TunnelCheck,
    UdpCheck,
    WebSocketCheck,
)
from oxyctl.topology.model import Check
from oxyctl.topology.quantities import seconds
from oxyctl.traffic.client import GeneratorError
from proxy.control.client import ControlError

PAUSE_S = 0.1

JUDGES: dict[type, probes.Judge] = {
    HttpCheck: probes.http,
    WebSocketCheck: probes.websocket,
    TcpCheck: probes.tcp,
    UdpCheck: probes.udp,
    PingCheck: probes.ping,
    DnsCheck: probes.dns,
    ExecCheck: probes.program,
    DroppedCheck: probes.dropped,
    FlowsCheck: records.flows,
    MetricCheck: records.metric,
    ImpairCheck: links.impair,
    TunnelCheck: links.tunnel,
    NodeCheck: nodes.node,
    PolicyCheck: policies.policy,
}


class Trial(NamedTuple):
    """One check from one node; None: a check of a proxy's records, or a step."""

    check: Check
    node: str | None

    @property
    def name(self) -> str:
        """The name in reports, with the node if the check runs from several."""
        title = self.check.title()
        return f"{title} (from {self.node})" if len(self.check.sources) > 1 else title

    @property
    def stage(self) -> str:
        """Consecutive trials of one stage run in parallel. Programs and steps run alone, records after probes."""
        if isinstance(self.check, ExecCheck | ImpairCheck | NodeCheck | PolicyCheck):
            return f"alone {id(self.check)}"
        return "records" if isinstance(self.check, FlowsCheck | MetricCheck | TunnelCheck) else "probes"


def trials(checks: Sequence[Check]) -> list[Trial]:
    """Each check from each of its nodes, in order."""
    nodes: list[str | None]
    result: list[Trial] = []
    for check in checks:
        nodes = [*check.sources] or [None]
        result += [Trial(check, node) for node in nodes]
    return result


async def run(checks: Sequence[Check], session: Session, jobs: int = DEFAULT_JOBS) -> AsyncIterator[Result]:
    """Run `checks`. Yields the results in their order, each as soon as all before it are complete."""
    slots = asyncio.Semaphore(jobs)
    for _, group in itertools.groupby(trials(checks), key=lambda trial: trial.stage):
        tasks = [asyncio.create_task(_limited(slots, trial, session)) for trial in group]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    if any(isinstance(check, NodeCheck) for check in checks) and (result := await _restore(session)) is not None:
        yield result


async def _restore(session: Session) -> Result | None:
    """Restore the nodes. Returns a result only if that fails."""
    begin = time.monotonic()
    try:
        await nodes.restore(session)
    except OxyctlError as error:
        return Result(
            name="every node runs as before",
            kind="node",
            node=None,
            state="broken",
            duration_ms=round((time.monotonic() - begin) * 1e3, 3),
            attempts=1,
            tried="restoring the nodes of steps",
            expected="each runs as before",
            actual=str(error),
        )
    return None


async def _limited(slots: asyncio.Semaphore, trial: Trial, session: Session) -> Result:
    async with slots:
        return await _try(trial, session)


async def _try(trial: Trial, session: Session) -> Result:
    """Try once, or repeatedly until the check passes or its time is over.

    That time begins with the first failure: the first attempt may have started the node's traffic generator, and waited
    for those of other nodes.
    """
    check, begin, attempts, deadline = trial.check, time.monotonic(), 0, None
    while True:
        attempts += 1
        try:
            verdict, is_broken = await JUDGES[type(check)](check, trial.node or "", session), False
        except (OxyctlError, GeneratorError, ControlError, OSError) as error:
            verdict, is_broken = Verdict(False, check.summary(), "", f"could not be carried out: {error}"), True
        now = time.monotonic()
        if deadline is None:
            deadline = now + (seconds(check.retry_until) if check.retry_until is not None else 0)
        if verdict.is_met or now >= deadline:
            break
        await asyncio.sleep(PAUSE_S)
    duration_ms = (time.monotonic() - begin) * 1e3
    return Result(
        name=trial.name,
        kind=check.kind,
        node=trial.node,
        state="passed" if verdict.is_met else "broken" if is_broken else "failed",
        duration_ms=round(duration_ms, 3),
        attempts=attempts,
        tried=verdict.tried,
        expected=verdict.expected,
        actual=verdict.actual,
        evidence=[] if verdict.is_met else await collect(check, trial.node, session),
    )
