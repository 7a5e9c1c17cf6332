"""Fields of flow records: what is known of TLS, as a whole and part by part."""

from __future__ import annotations

from oxyctl.render.flows import CSV_FIELDS, texts, values
from proxy.control.schema import TLSRecord
from proxy.verdict import Decision
from tests.records import make_record

READ = TLSRecord(sni="shop", alpn="h2", version="TLSv1.3", action="terminate")
NAMES = ["tls_sni", "tls_action", "tls_issuer"]


def test_parts_of_tls_are_fields_of_their_own():
    assert values(make_record(tls=READ), NAMES) == ["shop", "terminate", None]
    assert values(make_record(tls=None), NAMES) == [None, None, None]
    assert {*NAMES} <= {*CSV_FIELDS}
    assert "tls" not in CSV_FIELDS  # a structure


def test_a_table_has_it_in_words():
    failed = TLSRecord(sni="old", error="certificate has expired")
    assert texts(make_record(tls=READ), ["tls"]) == ["terminate TLSv1.3 h2 shop"]
    assert texts(make_record(tls=failed), ["tls"]) == ["pass old (certificate has expired)"]
    assert texts(make_record(tls=None), ["tls"]) == ["-"]


LET_IN = Decision("network", "office", "allow", rule="wiki")
READ_IT = Decision("network", "office", "inspect", rule="read")
PASSED = Decision("egress", "office", "allow", rule="default")
BY_HOOK = Decision("flow_start", "hook", "deny")
REFUSED = Decision("egress", "office", "block", rule="default")


def test_the_rule_is_the_one_that_decided():
    def rule(*decisions, **changes):
        return texts(make_record(decisions=[*decisions], **changes), ["rule"])[0]

    assert rule(READ_IT, LET_IN, PASSED) == "wiki"
    assert rule(READ_IT, PASSED) == "default"
    assert rule(LET_IN, REFUSED, verdict="denied") == "default"
    assert rule(LET_IN, BY_HOOK, verdict="denied") == "hook"
    assert rule(LET_IN, BY_HOOK, verdict="error") == "hook"
    assert rule() == "-"
