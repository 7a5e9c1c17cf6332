"""What is said of expressions that are wrong: where, what was expected, and what was probably meant."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.language import ExpressionError, Kind, Values, compile_expression
from tests.policy.language.vocabulary import FIELDS

MISTAKES = {
    "": "1:1: an expression is expected (found nothing)",
    "net.dst.prot == 1": "1:1: unknown field 'net.dst.prot'; did you mean 'net.dst.port'?",
    "http.request.host == \"x\"": "1:1: http.request.host is not known in phase network: it is in http",
    "net.dst.port = 1": "1:14: '=' is not a comparison; did you mean '=='?",
    "net.dst.port == 443 &": "1:21: '&' is not an operator; did you mean '&&'?",
    'net.dst.port == "443"': '1:17: expected a number (found "443")',
    "net.dst.port == 10.0.0.1": "1:17: expected a number (found the address 10.0.0.1)",
    "net.dst.port == true": "1:17: expected a number (found true)",
    'net.src.ip == "10.0.0.1"': "1:15: write an address without quotes: 10.0.0.1",
    "net.src.ip == 10.0.0.0/8": "1:15: write a prefix in a set: 'in {10.0.0.0/8}' (found 10.0.0.0/8)",
    "net.src.ip in {10.0.0.1/8}": "1:16: 10.0.0.1/8 has host bits set; did you mean 10.0.0.0/8?",
    "net.src.ip in {10.0.0.0/33}": "1:16: not a prefix: 10.0.0.0/33",
    "net.src.ip == 10.0.0.256": "1:15: not an address: 10.0.0.256",
    "net.src.ip in {10.0.0.9..10.0.0.1}": (
        "1:16: a range goes from low to high, in one family (found 10.0.0.9..10.0.0.1)"
    ),
    "net.dst.port in {9..1}": "1:18: a range goes from low to high (found 9..1)",
    'identity.email in {"a".."b"}': "1:20: only numbers and addresses have ranges, expected a text",
    "net.dst.port == 443 or": "1:23: expected a condition (found the end)",
    "(net.dst.port == 443": "1:21: expected ')' (found the end)",
    "net.dst.port in {1 2": "1:21: expected a value, '..' or '}' (found the end)",
    "net.dst.port == 443 AND device.managed": (
        "1:21: expected 'and', 'or', 'xor' or the end (found 'AND'); did you mean 'and'?"
    ),
    "net.dst.port": "1:1: expected a condition (found number)",
    "443 == net.dst.port": "1:1: a value stands on the right side of a comparison, a field on the left",
    'net.protocol == "tpc"': "1:17: unknown value \"tpc\"; did you mean 'tcp'?",
    'net.protocol > "a"': "1:14: '>' compares numbers (found text)",
    "net.src.ip contains 10.0.0.1": "1:12: 'contains' looks into a text (found address); did you mean 'in'?",
    "net.dst.port in $offce": "1:17: unknown list '$offce'; did you mean 'office'?",
    "net.dst.port in $office": "1:17: expected a list of number (found '$office', of address)",
    "identity.email == 'x'": "1:19: write a text in double quotes",
    'identity.email == "x': "1:19: a text that does not end: the closing '\"' is missing",
    r'identity.email == "\d"': (
        "1:19: unknown escape '\\d': write '\\\\d' for a backslash, or a raw text r\"…\""
    ),
    'identity.email matches "(a"': "1:24: regular expression: missing ): (a",
    'identity.email matches "a(?=b)"': "1:24: regular expression: invalid perl operator: (?=",
    'device_posture.checks.passed == "x"': (
        "1:1: device_posture.checks.passed is an array of text: "
        "write any(device_posture.checks.passed[*] …) or all(…)"
    ),
    'device_posture.checks.passed[*] == "x"': (
        "1:1: compares each element of an array: write any(…) or all(…) around it"
    ),
    "any(device.managed)": "1:5: any(…) needs a condition over an array, such as any(field[*] == …)",
    'http.request.headers == "x"': (
        '1:1: http.request.headers is a map: write http.request.headers["name"][*]'
    ),
    "net.dst.port[0] == 1": "1:1: net.dst.port is a number, not an array: it has no [ ]",
    "foo(1)": (
        "1:1: unknown function 'foo'; expected one of: all, any, cidr, concat, ends_with, len, lower, "
        "starts_with, substring, to_string, upper, url_decode"
    ),
    'lower(net.dst.port) == "x"': "1:7: lower(…): expected text (found number)",
    'lower() == "x"': "1:1: lower(…) takes 1 argument (found 0)",
    "net.dst.port == 443 and\n  net.dst.port == 80": (
        "2:3: can never hold: net.dst.port would need two values at once"
    ),
    "net.src.ip in {10.0.0.0/8} and net.src.ip in {192.168.0.0/16}": (
        "1:32: can never hold: net.src.ip would need two values at once"
    ),
    "not " * 100 + "device.managed": "1:261: nested more than 64 deep",
    "(" * 100 + "device.managed" + ")" * 100: None,
    "device.managed or " * 300 + "device.managed": "1:1: longer than 4,096 characters (5,414)",
}  # fmt: skip

LISTS = {"office": Values(Kind.ADDRESS)}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text[:40])
def test_a_mistake_is_told_with_its_place(text):
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, FIELDS, LISTS)
    assert str(caught.value) == (MISTAKES[text] or str(caught.value))


@given(st.text(max_size=200))
def test_arbitrary_text_is_an_expression_or_one_error(text):
    assert is_told_in_one_line(text)


WORDS = [
    "net.dst.port", "identity.email", "net.src.ip", "identity.groups", "[*]", ".name", "==", "!=", "in", "{", "}", "(",
    ")", "443", '"x"', "10.0.0.0/8", "::1", "..", "and", "or", "not", "any", "all", "len", "lower", ",", "matches",
    "$a", "true", 'r"\\d"', "<", "xor", "wildcard",
]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=25))
def test_words_in_any_order_are_an_expression_or_one_error(words):
    assert is_told_in_one_line(" ".join(words))


def is_told_in_one_line(text):
    try:
        condition = compile_expression(text, FIELDS, {"a": Values(Kind.NUMBER)})
    except ExpressionError as error:
        return error.line >= 1 and error.column >= 1 and "\n" not in error.message
    return condition.matches({"net.dst.port": 443}) in (True, False)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){12}b", "(?:a?){500}a{500}b"])
def test_a_regular_expression_that_explodes_elsewhere_does_not_here(pattern):
    condition = compile_expression(f'identity.email matches "{pattern}"', FIELDS)
    began = time.process_time()
    assert condition.matches({"identity.email": "a" * 20_000 + "c"}) is False
    assert time.process_time() - began < 2  # a backtracking engine needs longer than the universe has


def test_a_regular_expression_that_would_fill_the_memory_is_refused():
    with pytest.raises(ExpressionError, match="regular expression: "):
        compile_expression(r'identity.email matches "((\\pL{100}){100}){9}"', FIELDS)
