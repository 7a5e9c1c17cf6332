"""Suggested commands mean the lab that they are suggested for."""

from __future__ import annotations

import msgspec
import pytest

from oxyctl.plan.hints import hints


@pytest.mark.parametrize(
    ("name", "is_default_lab", "expected"),
    [
        ("quickstart", True, "oxyctl lab exec laptop -- ping -c3 web"),
        ("quickstart", False, "oxyctl lab exec --lab quickstart laptop -- ping -c3 web"),
        ("office", True, "oxyctl lab exec --lab office laptop -- ping -c3 web"),
    ],
)
def test_a_lab_is_named_unless_it_is_the_only_one(plan, quick, name, is_default_lab, expected):
    named = msgspec.structs.replace(plan(quick), lab=name)
    assert next(hints(named, is_default_lab=is_default_lab)) == expected


def test_where_policies_rule_an_origin_is_asked_for_its_service(plan, quick):
    ruled = quick.replace("tenants: {acme: {}}", "tenants: {acme: {policy: {default: deny}}}")
    assert next(hints(plan(ruled))).endswith(" laptop -- curl -sS http://web/")
