"""The bench of hooks measures what it says: each flow is asked about, goes on, and ends on record."""

from __future__ import annotations

import asyncio

import pytest

from bench.flowpath import BATCH, FlowPath
from bench.hooks import ALL, CONTESTANTS, asking_nobody_us


@pytest.mark.parametrize("name", CONTESTANTS)
def test_flows_are_asked_about_and_recorded(name):
    with FlowPath(CONTESTANTS[name]()) as path:
        records = []
        path.lifecycle.subscribe(records.append, "end")
        assert asyncio.run(path.seconds_with_hooks(BATCH)) > 0
        assert {(record.verdict, record.close_reason) for record in records} == {("allowed", "client_idle_timeout")}
        assert len(records) == BATCH
        stages = {"flow_start", "route", "level", "connect"} if name == ALL else {"flow_start"} & {name}
        assert set(path.lifecycle.admission.stages) == stages


def test_asking_nobody_is_measured():
    with FlowPath() as path:
        assert asking_nobody_us(path) > 0
