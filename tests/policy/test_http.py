"""Rules of the phase http: what they do to requests, and those that wait for the answer."""

import pytest

from proxy.inspect.http.messages import RequestHead, ResponseHead
from proxy.inspect.http.rules import Facts
from proxy.policy.facts import checked_facts
from proxy.policy.load import compile_policies
from proxy.settings import DocumentError
from proxy.verdict import HeaderChange
from tests.policy.files import NOW, Text, Texts


def policies(rules):
    text = "rules:\n" + "".join(f"  - {{phase: http, name: r{i}, {rule}}}\n" for i, rule in enumerate(rules))
    return compile_policies(Texts([Text("p.yaml", None, text)]), ["acme"], NOW)


def facts(path=b"/", response=None):
    head = RequestHead(b"GET", b"https", b"wiki.lab", path, "1.1")
    known = Facts(head, response, None)
    known["time.unix"] = NOW
    return known


def ruled(rules, **what):
    return policies(rules).judge("acme", "http", facts(**what))


def verdict(rules, **what):
    return ruled(rules, **what).verdict


def test_a_block_has_a_status_and_words():
    said = verdict(["action: block, when: 'http.request.host == \"wiki.lab\"', status: 451, page: Ask first"])
    assert said.is_denial
    assert (said.http.status, said.http.page) == (451, "Ask first")


def test_a_redirect_ends_the_phase():
    said = verdict(["action: redirect, location: 'https://help.lab/', status: 307", "action: block"])
    assert not said.is_denial
    assert (said.http.location, said.http.status) == ("https://help.lab/", 307)


def test_headers_of_several_rules_come_together_and_the_first_word_holds():
    said = verdict(
        [
            "action: set-header, header: X-Tenant, value: acme",
            "action: set-header, header: x-tenant, value: other",
            "action: remove-header, header: Server, on: response",
            "action: allow",
        ]
    )
    assert said.http.request_headers == (HeaderChange("X-Tenant", "acme"),)
    assert said.http.response_headers == (HeaderChange("Server"),)


def test_several_headers_of_one_rule():
    said = verdict(["action: set-header, headers: {X-GoogApps-Allowed-Domains: acme.example, Sec-Restrict: strict}"])
    changes = (HeaderChange("X-GoogApps-Allowed-Domains", "acme.example"), HeaderChange("Sec-Restrict", "strict"))
    assert said.http.request_headers == changes


def test_bodies_that_the_hook_is_to_see():
    assert verdict(["action: inspect-body", "action: allow"]).http.reads == ("request",)
    rules = ["action: inspect-body, on: response", "action: inspect-body", "action: inspect-body, on: response"]
    assert verdict(rules).http.reads == ("response", "request")


def test_log_leaves_a_word_in_the_record_and_the_next_rule_is_asked():
    ruling = ruled(["action: log, reason: seen", "action: allow"])
    assert not ruling.verdict.is_denial
    assert [(each.rule, each.action, each.enforced) for each in ruling.decisions] == [
        ("r0", "log", True),
        ("r1", "allow", True),
    ]


def test_over_its_rate_a_request_is_told_to_come_later():
    limited = policies(["action: rate-limit, flows_per_s: 1"])
    limits = [limited.judge("acme", "http", facts()).limits for _ in range(3)][-1]  # judged, and not counted
    said = [limited.exceeded(limits, checked_facts("http", {"time.unix": 5.0})) for _ in range(2)]
    assert said[0] is None
    assert said[1].verdict.http.status == 429
    assert limited.exceeded(limits, checked_facts("http", {"time.unix": 6.0})) is None
    assert limited.exceeded([("acme", "acme", "unheard-of")], checked_facts("http", {})) is None


def test_another_origin():
    assert verdict(["action: override-origin, origin: '10.9.9.9:8080'"]).origin == ("10.9.9.9", 8080)


def test_a_condition_about_the_answer_is_asked_when_it_is_there():
    rules = ["action: block, when: 'http.response.code == 404'", "action: set-header, header: A, value: b"]
    said = verdict(rules)
    assert not said.is_denial
    assert said.http.judge_response
    assert said.http.request_headers == (HeaderChange("A", "b"),)
    assert verdict(rules, response=ResponseHead(404)).is_denial
    assert not verdict(rules, response=ResponseHead(200)).is_denial


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("action: redirect", "redirect needs 'location'"),
        ("action: set-header, header: X", "set-header needs 'header' and 'value', or 'headers'"),
        ("action: set-header, header: X, value: y, headers: {A: b}", "'headers' replaces"),
        ("action: set-header, headers: {'a b': c}", "headers"),
        ("action: set-header, headers: {a: 7}", "headers"),
        ("action: block, on: response", "'on' belongs to set-header or remove-header or inspect-body"),
        ("action: set-header, header: 'a b', value: c", "header"),
        ('action: set-header, header: a, value: "c\\nd"', "value"),
        ("action: block, status: 302", "a block has a status of 400 to 599"),
        ("action: allow, page: x", "'page' belongs to block"),
    ],
)
def test_mistakes_are_told_with_their_place(rule, said):
    with pytest.raises(DocumentError, match=r"p\.yaml:2:\d+") as caught:
        policies([rule])
    assert said in str(caught.value)
