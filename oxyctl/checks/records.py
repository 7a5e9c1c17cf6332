"""Checks of a proxy's flow records and counters. They are polled, since both arrive a moment late."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from oxyctl.checks.result import Verdict
from oxyctl.checks.session import Session
from oxyctl.render.flows import values
from oxyctl.topology.checks import FlowsCheck, MetricCheck
from oxyctl.topology.checks.values import COMPARISONS, is_met
from oxyctl.topology.quantities import seconds
from proxy.control.schema import MAX_LIMIT, FlowRecord

PAUSE_S = 0.05
SHOWN = 3  # records in a story
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


async def flows(check: FlowsCheck, _node: str, session: Session) -> Verdict:
    """The records that match, counted until there are enough. With `at_most`, judged as soon as there are."""
    since = session.started if check.since is None else time.time_ns() - int(seconds(check.since) * 1e9)
    pairs = [*check.pairs(), ("since", str(since)), ("limit", str(MAX_LIMIT))]

    async def attempt() -> Verdict:
        found = await session.flows(check.proxy, pairs)
        return _judge_flows(check, found)

    return await _until_met(attempt, check.timeout_s)


def _judge_flows(check: FlowsCheck, found: list[FlowRecord]) -> Verdict:
    names = list(check.fields)
    matching = [record for record in found if _differences(check, record) == []]
    at_most = check.at_most
    enough = len(matching) >= check.at_least and (at_most is None or len(matching) <= at_most)
    asked = f"flows {check.summary()}" + (f" with {_conditions(check.fields)}" if names else "")
    least = f"at least {check.at_least}" if at_most != check.at_least else f"{at_most}"
    expected = least if at_most is None or at_most == check.at_least else f"{least} and at most {at_most}"
    came = f"{len(matching)}, of {len(found)} that the filters select"
    if not enough and names:
        came += "".join(
            f"; one has {', '.join(_differences(check, r))}" for r in found[:SHOWN] if _differences(check, r)
        )
    return Verdict(enough, asked, expected, came)


def _differences(check: FlowsCheck, record: FlowRecord) -> list[str]:
    """The fields that are not as expected, with what they are."""
    found = dict(zip(check.fields, values(record, list(check.fields)), strict=True))
    return [f"{name} {found[name]!r}" for name, wanted in check.fields.items() if not is_met(wanted, found[name])]


def _conditions(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {wanted}" for name, wanted in fields.items())


async def metric(check: MetricCheck, _node: str, session: Session) -> Verdict:
    """The sum of the samples that match, compared until it is as it should be."""

    async def attempt() -> Verdict:
        found = sum_of(await session.metrics(check.proxy), check.metric, check.labels)
        labels = "{" + _conditions(check.labels) + "}" if check.labels else ""
        is_so = COMPARISONS[check.op](found or 0, check.value)
        came = "no such metric" if found is None else f"{found:g}"
        return Verdict(is_so and found is not None, f"{check.metric}{labels}", f"{check.op} {check.value:g}", came)

    return await _until_met(attempt, check.timeout_s)


def sum_of(exposition: str, name: str, labels: dict[str, str]) -> float | None:
    """The sum of the samples of `name` that have these labels; None when the text does not know the name at all."""
    total, is_known = 0.0, False
    for line in exposition.splitlines():
        is_known = is_known or line.startswith(f"# TYPE {name} ")
        sample = _SAMPLE.fullmatch(line)
        if sample is None or sample[1] != name:
            continue
        is_known = True
        found = {label: _unescape(value) for label, value in _LABEL.findall(sample[2] or "")}
        if labels.items() <= found.items():
            total += float(sample[3])
    return total if is_known else None


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), text)


async def _until_met(attempt: Callable[[], Awaitable[Verdict]], timeout_s: float) -> Verdict:
    deadline = time.monotonic() + timeout_s
    while True:
        verdict = await attempt()
        if verdict.is_met or time.monotonic() >= deadline:
            return verdict
        await asyncio.sleep(PAUSE_S)
