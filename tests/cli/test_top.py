"""`oxyctl top`: rates between two looks, in tables and for programs."""

from __future__ import annotations

import itertools
import json

from oxyctl.render.top import Sample, Top, sparkline, text
from proxy.control.schema import RecordsStatus, Status, TenantStatus, TunnelInfo
from tests.records import live_record


def sample(at, **numbers):
    tenant = TenantStatus(tunnels=1, flows={"tcp": 2, "udp": 1}, flows_started={"tcp": numbers.get("started", 0)},
                          client_bytes=numbers.get("up", 0), drops={"denied": numbers.get("denied", 0)})  # fmt: skip
    drops = {"denied": numbers.get("denied", 0), "bad_control": 3}
    status = Status(node="edge", version="1", pid=1, started=0, uptime_s=61.0, tenants={"acme": tenant}, drops=drops,
                    records=RecordsStatus(stored=5, lost=2))  # fmt: skip
    tunnel = TunnelInfo(id="t1", onramp="connected", tenant="acme", mtu=1280, opened=0, bytes_in=numbers.get("up", 0))
    return Sample(at, status, [tunnel], [live_record(1)])


def test_rates_are_of_the_time_between_two_looks():
    top = Top()
    first = top.update(sample(10.0, started=5, up=1000, denied=1))
    assert first["tenants"][0]["up_per_s"] == 0
    shown = top.update(sample(12.0, started=9, up=5000, denied=7))
    (tenant,) = shown["tenants"]
    assert (tenant["flows"], tenant["new_per_s"], tenant["up_per_s"], tenant["drops_per_s"]) == (3, 2.0, 2000.0, 3.0)
    assert shown["tunnels"][0]["in_per_s"] == 2000.0
    assert [(row["reason"], row["tenant"], row["packets"], row["per_s"]) for row in shown["drops"]] == [
        ("denied", "acme", 7, 3.0),
        ("bad_control", "-", 3, 0.0),
    ]


def test_a_counter_that_began_again_is_no_negative_rate():
    top = Top()
    top.update(sample(1.0, up=5000))
    assert top.update(sample(2.0, up=10))["tenants"][0]["up_per_s"] == 0


def test_history_is_bounded_and_of_what_there_is():
    top = Top()
    for at in range(100):
        shown = top.update(sample(float(at), up=at * at))
    history = shown["tenants"][0]["up_history"]
    assert (len(history), history[-1]) == (30, 99 * 99 - 98 * 98)
    gone = sample(200.0)
    gone.status.tenants = {}
    top.update(gone)
    assert not any("acme" in key for key in top._history)


def test_a_sparkline():
    assert sparkline([0, 1, 2, 4, 8]) == "▁▁▂▄█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


def test_text_fits_the_terminal():
    top = Top()
    top.update(sample(1.0))
    for width in (60, 80, 200):
        lines = text(top.update(sample(2.0, up=10**6)), width).splitlines()
        assert lines[0] == "edge: running for 1m01s, 5 records, 2 lost"
        assert max(map(len, lines)) <= max(width, len(lines[0]))
    assert any(line.startswith("DROP REASON") for line in lines)


def test_one_look_for_programs(oxyctl, server, proxy, path):
    proxy.live = [live_record(1)]
    code, out, _ = oxyctl("top", "--control", path, "--interval", "0.1", "--format", "json")
    answer = json.loads(out)
    assert (code, answer["kind"]) == (0, "top")
    (item,) = answer["items"]
    assert [row["tenant"] for row in item["tenants"]] == ["acme", "globex"]
    assert item["flows"][0]["flow_id"] == "f00000001"
    assert item["interval_s"] >= 0.1


def test_in_a_pipe_it_ends(oxyctl, server, path):
    code, out, _ = oxyctl("top", "--control", path, "--interval", "0.1", "--tenant", "acme")
    assert code == 0
    assert "globex" not in out
    headers = [line.split()[0] for line in out.splitlines() if line.isupper()]
    assert headers == [name for name, _ in itertools.groupby(headers)]


def test_an_unknown_tenant(oxyctl, server, path):
    code, _, err = oxyctl("top", "--control", path, "--tenant", "acne")
    assert (code, err) == (4, "error: the proxy has no tenant acne; it has acme, globex\n")
