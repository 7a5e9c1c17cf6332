"""What the HTTP bench reads from others, and what it lets the proxy judge by."""

import pytest

from bench.http_loads import _h2load_report
from bench.http_readers import policies
from bench.topology import BenchError
from proxy.policy.judge import PolicyJudge
from proxy.policy.source import FileSource

REPORT = """
finished in 2.01s, 559.33 req/s, 637.55KB/s
requests: 1130 total, 1180 started, 1130 done, 1126 succeeded, 4 failed, 4 errored, 0 timeout
status codes: 1126 2xx, 0 3xx, 0 4xx, 4 5xx
"""


def test_a_report_of_h2load_with_failures():
    assert _h2load_report(REPORT) == {"done": 1126, "failed": 4, "seconds": 2.01}
    assert _h2load_report(REPORT.replace("2.01s", "850ms"))["seconds"] == pytest.approx(0.85)


def test_a_report_that_is_none():
    with pytest.raises(BenchError, match="could not resolve"):
        _h2load_report("h2load: could not resolve web.lab")


def test_the_policies_of_the_bench_load_and_speak_of_what_is_read(tmp_path):
    path = tmp_path / "read.yaml"
    path.write_text(policies(20))
    judge = PolicyJudge(FileSource([str(path)], []), ["bench"], list)
    assert judge.policies.has("bench", "http")
    assert judge.policies.has("bench", "tls")
    assert len(list(judge.policies.rules())) == 21
