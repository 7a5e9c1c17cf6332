"""Checks of a proxy's flow records and metrics, repeated since both appear with a delay."""

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
SHOWN = 3  # records in the description of a failure
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


async def flows(check: FlowsCheck, _node: str, session: Session) -> Verdict:
    """Count matching records until the number is as expected."""
    since = session.started if check.since is None else time.time_ns() - int(seconds(check.since) * 1e9)
    pairs = [*check.pairs(), ("since", str(since)), ("limit", str(MAX_LIMIT))]

    async def attempt() -> Verdict:
        records = await session.flows(check.proxy, pairs)
        return _judge_flows(check, records)

    return await _until_met(attempt, check.timeout_s)


def _judge_flows(check: FlowsCheck, records: list[FlowRecord]) -> Verdict:
    names = list(check.fields)
    matching = [record for record in records if _differences(check, record) == []]
    at_most = check.at_most
    is_enough = len(matching) >= check.at_least and (at_most is None or len(matching) <= at_most)
    tried = f"flows {check.summary()}" + (f" with {_conditions(check.fields)}" if names else "")
    minimum = f"at least {check.at_least}" if at_most != check.at_least else f"{at_most}"
    expected = minimum if at_most is None or at_most == check.at_least else f"{minimum} and at most {at_most}"
    actual = f"{len(matching)}, of {len(records)} that the filters select"
    if not is_enough and names:
        actual += "".join(
            f"; one has {', '.join(_differences(check, r))}" for r in records[:SHOWN] if _differences(check, r)
        )
    return Verdict(is_enough, tried, expected, actual)


def _differences(check: FlowsCheck, record: FlowRecord) -> list[str]:
    """The fields with unexpected values, and these values."""
    actual = dict(zip(check.fields, values(record, list(check.fields)), strict=True))
    return [f"{name} {actual[name]!r}" for name, expected in check.fields.items() if not is_met(expected, actual[name])]


def _conditions(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} {expected}" for name, expected in fields.items())


async def metric(check: MetricCheck, _node: str, session: Session) -> Verdict:
    """Sum the matching samples until the comparison holds."""

    async def attempt() -> Verdict:
        total = sum_of(await session.metrics(check.proxy), check.metric, check.labels)
        labels = "{" + _conditions(check.labels) + "}" if check.labels else ""
        holds = COMPARISONS[check.op](total or 0, check.value)
        actual = "no such metric" if total is None else f"{total:g}"
        return Verdict(holds and total is not None, f"{check.metric}{labels}", f"{check.op} {check.value:g}", actual)

    return await _until_met(attempt, check.timeout_s)


def sum_of(exposition: str, name: str, labels: dict[str, str]) -> float | None:
    """The sum of the samples of `name` with these labels; None: the text does not contain the name at all."""
    total, is_known = 0.0, False
    for line in exposition.splitlines():
        is_known = is_known or line.startswith(f"# TYPE {name} ")
        sample = _SAMPLE.fullmatch(line)
        if sample is None or sample[1] != name:
            continue
        is_known = True
        sample_labels = {label: _unescape(value) for label, value in _LABEL.findall(sample[2] or "")}
        if labels.items() <= sample_labels.items():
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
