"""The story of a flow names who decided, says how it ended in words, and what a person might do."""

from __future__ import annotations

from typing import get_args

import pytest

from oxyctl.render.flow_explanation import ENDS, LEVELS, flow_explanation
from proxy.control.schema import CloseReason, Decision, Level
from proxy.flow.record import TLSRecord, Totals
from tests.records import live_record, make_record

BLOCKED = Decision("network", "office", "block", rule="no-ssh", version="3f2a", reason="ssh is for admins")


def test_a_denied_flow_names_the_rule():
    record = make_record(1, close_reason="denied", verdict="denied", decisions=[BLOCKED], offramp=None, dst_port=22)
    text = flow_explanation(record)
    assert "TCP from 100.96.0.2:40000 to 10.50.0.10:22" in text
    assert "network: block by policy office, rule no-ssh (version 3f2a): ssh is for admins" in text
    assert "it did not leave the proxy" in text
    assert "it was denied before anything left the proxy (denied)" in text
    assert "oxyctl policy explain" in text


def test_a_shadow_rule_is_told_apart():
    shadow = Decision("network", "office", "block", rule="no-ssh", enforced=False)
    assert "audit-only, so not enforced" in flow_explanation(make_record(decisions=[shadow]))


def test_a_quarantined_flow_went_elsewhere():
    text = flow_explanation(make_record(offramp="sockets", origin="10.50.0.99:80"))
    assert "off-ramp sockets to 10.50.0.99:80, not the destination that was requested" in text


def test_a_live_flow_without_an_answer():
    text = flow_explanation(live_record(offramp="kernel"))
    assert "  End      open" in text
    assert "Nothing has come back" in text


def test_a_hook_that_denied():
    text = flow_explanation(
        make_record(close_reason="denied", decisions=[Decision("flow_start", "hook", "deny", reason="late")])
    )
    assert "flow_start: deny by a hook: late" in text
    assert "A hook of the application decided" in text


@pytest.mark.parametrize("reason", get_args(CloseReason))
def test_every_end_has_words(reason):
    assert ENDS[reason] in flow_explanation(make_record(close_reason=reason))


@pytest.mark.parametrize(
    ("error", "hint"),
    [("tlsv1 alert unknown ca", "pin certificates"), ("unsupported protocol", "no version or cipher in common")],
)
def test_a_client_without_tls_was_not_relayed(error, hint):
    tls = TLSRecord(action="terminate", error=error)
    text = flow_explanation(make_record(close_reason="client_tls_error", level="stream", tls=tls))
    assert "nothing was relayed" in text
    assert "unread" not in text
    assert f"error {error}" in text
    assert hint in text


def test_every_level_has_words():
    assert set(LEVELS) == set(get_args(Level))


def test_nothing_in_it_moves_a_cursor():
    text = flow_explanation(make_record(user="\x1b[2Jeve", dst_host="a\nb"))
    assert text.replace("\n", "").isprintable()
    assert "b, from its name" in text.splitlines()[0]


def test_of_what_was_refused_nothing_is_told_as_if_it_had_left():
    record = make_record(verdict="denied", close_reason="denied", offramp="kernel", total=Totals())
    text = flow_explanation(record)
    assert "Route    none: nothing left the proxy" in text
    assert "Level" not in text
    assert "Moved" not in text
