"""The lab of policies: its checks hold, decisions are explained, and what is in force is told, tried and exported."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.netns, pytest.mark.user("rootless"), pytest.mark.slow]

ACME = ("--tenant", "acme")


def test_its_checks_hold_and_every_decision_is_explained(machine):
    machine.oxyctl("lab", "up", "zero-trust")
    machine.oxyctl("lab", "check", "zero-trust")
    for filters, expected in (
        (("--user", "bob@acme.example", "--verdict", "denied"), "block by policy acme, rule default"),
        (("--user", "carol@acme.example"), "guests-shadow"),
        (("--close-reason", "policy_revoked"), "block by policy acme, rule nobody-wiki"),
    ):
        flow = json.loads(machine.oxyctl("flows", *ACME, *filters, "--format", "json").stdout)["items"][0]
        assert expected in machine.oxyctl("flows", "explain", flow["flow_id"], *ACME).stdout
    words = ("--user", "bob", "--group", "sales", "--dst", "10.60.0.10:80")
    explained = machine.oxyctl("policy", "explain", *ACME, *words).stdout
    assert explained.startswith("BLOCK by default: no rule matched (policy acme, version ")

    exported = machine.oxyctl("policy", "export", *ACME).stdout
    file = machine.file("acme.yaml", exported)
    machine.oxyctl("policy", "test", file, *ACME)
    assert machine.oxyctl("policy", "diff", file, *ACME).stderr == "no rules differ\n"
    replayed = machine.oxyctl("policy", "test", file, *ACME, "--against-past", "1h", "--format", "json").stdout
    (found,) = json.loads(replayed)["items"]
    assert found["without_groups"] == 0
    assert {change["rule"] for change in found["changes"]} == {"staff-wiki"}
    hits = json.loads(machine.oxyctl("policy", "hits", "--format", "json").stdout)["items"]
    assert next(rule["hits"] for rule in hits if rule["name"] == "no-telnet") >= 2
