"""Rules of the phase http: what they do to requests, and those that wait for the answer."""

import pytest

from proxy.inspect.http.messages import RequestHead, ResponseHead
from proxy.inspect.http.rules import Facts
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


def verdict(rules, **what):
    return policies(rules).judge("acme", "http", facts(**what)).verdict


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
        ("action: set-header, header: X", "set-header needs 'value'"),
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
