"""The Grafana dashboard asks only for metrics and labels that a proxy has."""

from __future__ import annotations

import json
import re

import pytest

from proxy.control.schema import TunnelInfo
from proxy.telemetry.metrics import render
from tests.meta.imports import ROOT
from tests.telemetry.test_metrics import status

DASHBOARD = json.loads((ROOT / "examples" / "grafana.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def labels_by_metric():
    tunnel = TunnelInfo(
        id="site:a", onramp="gue", tenant="acme", mtu=1280, opened=0, health="healthy", rtt_ms=1.0, probes_answered=1
    )
    found = {}
    for line in render(status(), [tunnel]).splitlines():
        if not line.startswith("#"):
            name, _, labels = line.partition("{")
            found.setdefault(name.split()[0], set()).update(re.findall(r'(\w+)="', labels))
    return found


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_a_query_asks_for_what_there_is(title, query):
    known = labels_by_metric()
    names = re.findall(r"oxy_\w+", query)
    assert names
    assert set(names) <= known.keys()
    asked = set(re.findall(r"(\w+)=~", query))
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        asked |= {label.strip() for label in grouped.split(",")}
    assert all(asked <= known[name] for name in names)


def test_counters_are_shown_as_rates():
    for _, query in QUERIES:
        for name in re.findall(r"oxy_\w+_total", query):
            assert re.search(rf"(rate|increase)\({name}", query)


def test_no_two_panels_overlap_or_share_a_number():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in DASHBOARD["panels"]})


def test_its_variables_are_those_that_queries_use():
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}
