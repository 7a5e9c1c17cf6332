"""The bench of policies measures what it says: each flow begins, is decided by the last rule, and ends on record."""

from __future__ import annotations

from bench.flowpath import BATCH, FlowPath
from bench.policy import loaded


def test_flows_are_decided_and_recorded():
    judge, _ = loaded(200)
    with FlowPath() as path:
        records = []
        path.lifecycle.subscribe(records.append, "end")
        assert path.flows_per_s(judge, BATCH) > 0
        assert len(records) == BATCH
        assert {(record.decisions[-1].rule, record.close_reason) for record in records} == {
            ("last", "client_idle_timeout")
        }
        assert path.tenant.count == 0


def test_thousands_of_rules_decide_like_few():
    judge, _ = loaded(2_000)
    with FlowPath() as path:
        ruling = judge.judge(path.flow())
    assert ruling.decisions[-1].rule == "last"
