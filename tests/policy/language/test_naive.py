"""Random conditions and facts: what a compiled expression says is what a naive reading of docs/policies.md says."""

from __future__ import annotations

import fnmatch
import ipaddress
import re

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from proxy.policy.fields import FIELDS
from proxy.policy.language import ExpressionError, Facts, compile_expression

TEXTS = ("bob", "Bob", "eve@x.example", "a*b", 'q"\\', "")
NUMBERS = (22, 80, 443, 65_535)
ADDRESSES = ("10.0.0.1", "10.0.1.9", "192.0.2.1", "fd00::1", "fd00:0:1::7")
PREFIXES = ("10.0.0.0/24", "10.0.0.0/8", "0.0.0.0/0", "fd00::/32", "192.0.2.1/32", "::/0")
TEXT_FIELDS = ("identity.user", "net.dst.host")
NUMBER_FIELDS = ("net.dst.port", "net.src.port", "time.unix")
ADDRESS_FIELDS = ("net.src.ip", "net.dst.ip")
ARRAY = "identity.groups[*].name"
WORDS = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "matches": "~"}


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def written(value):
    return quoted(value) if isinstance(value, str) else str(value)


# A condition is its text, and a function of the facts: that function is the oracle.

facts = st.fixed_dictionaries(
    {
        **{name: st.sampled_from((None, *TEXTS)) for name in TEXT_FIELDS},
        **{name: st.sampled_from((None, *NUMBERS, 81)) for name in NUMBER_FIELDS[:2]},
        "time.unix": st.sampled_from((80.0, 80.5, 100.25)),
        **{name: st.sampled_from((None, *ADDRESSES)) for name in ADDRESS_FIELDS},
        ARRAY: st.lists(st.sampled_from(TEXTS), max_size=3).map(tuple),
    }
)


def compare(operator, one, other):
    """Unknown values equal nothing, and are neither more nor less."""
    if operator in ("==", "!="):
        return (one is not None and other is not None and one == other) == (operator == "==")
    if one is None or other is None:
        return False
    if operator in ("<", "<=", ">", ">="):
        return {"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[operator]
    if operator == "contains":
        return other in one
    if operator == "matches":
        return re.search(other, one) is not None
    pattern = other.replace("[", "[[]").replace("?", "[?]")
    return fnmatch.fnmatchcase(*((one, pattern) if operator == "strict wildcard" else (one.lower(), pattern.lower())))


@st.composite
def about_a_text(draw):
    """How a test of one text is written after it, and what it says."""
    kind = draw(st.sampled_from(("compare", "in", "wildcard", "matches")))
    if kind == "in":
        values = draw(st.lists(st.sampled_from(TEXTS), max_size=3))
        return f"in {{{' '.join(map(quoted, values))}}}", lambda value: value is not None and value in values
    if kind == "compare":
        operator = draw(st.sampled_from(("==", "!=", "contains")))
        value = draw(st.sampled_from(TEXTS))
    elif kind == "wildcard":
        operator = draw(st.sampled_from(("wildcard", "strict wildcard")))
        value = draw(st.sampled_from(("*", "b*", "*B", "b*b", "*@*.example", "B?b", "[b]ob", "", "**")))
    else:
        operator, value = "matches", draw(st.sampled_from(("^b", "o", "(?i)BOB$", "[.]example", "^$")))
    word = WORDS.get(operator, operator) if draw(st.booleans()) else operator
    return f"{word} {quoted(value)}", lambda found: compare(operator, found, value)


@st.composite
def about_a_number(draw):
    if draw(st.booleans()):
        operator, value = draw(st.sampled_from(("==", "!=", "<", "<=", ">", ">="))), draw(st.sampled_from(NUMBERS))
        return f"{operator} {value}", lambda found: compare(operator, found, value)
    ranges = draw(st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from((0, 1, 3, 363))), max_size=3))
    items = " ".join(f"{low}..{low + more}" if more else str(low) for low, more in ranges)
    return (
        f"in {{{items}}}",
        lambda found: found is not None and any(low <= found <= low + more for low, more in ranges),
    )


@st.composite
def about_an_address(draw):
    if draw(st.booleans()):
        operator, value = draw(st.sampled_from(("==", "!="))), draw(st.sampled_from(ADDRESSES))
        return f"{operator} {value}", lambda found: compare(operator, found, value)
    values = draw(
        st.lists(st.sampled_from((*PREFIXES, *ADDRESSES, "10.0.0.1..10.0.1.9", "fd00::1..fd00::9")), max_size=3)
    )

    def within(found):
        if found is None:
            return False
        address = ipaddress.ip_address(found)
        for value in values:
            low, _, high = value.partition("..")
            if high:
                first, last = ipaddress.ip_address(low), ipaddress.ip_address(high)
                if first.version == address.version and first <= address <= last:
                    return True
            elif address in ipaddress.ip_network(low):
                return True
        return False

    return f"in {{{' '.join(values)}}}", within


@st.composite
def leaves(draw):
    kind = draw(st.sampled_from(("text", "number", "address", "array", "two", "function")))
    if kind == "two":
        names = draw(st.sampled_from((TEXT_FIELDS, NUMBER_FIELDS, ADDRESS_FIELDS)))
        one, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        operators = ("==", "!=", "<", "<=", ">", ">=") if names is NUMBER_FIELDS else ("==", "!=")
        operator = draw(st.sampled_from(operators))
        return f"{one} {operator} {other}", lambda known: compare(operator, known[one], known[other])
    if kind == "array":
        quantifier = draw(st.sampled_from(("any", "all")))
        text, test = draw(about_a_text())
        function = any if quantifier == "any" else all
        if draw(st.booleans()):
            return f"{quantifier}(not {ARRAY} {text})", lambda known: function(not test(each) for each in known[ARRAY])
        return f"{quantifier}({ARRAY} {text})", lambda known: function(test(each) for each in known[ARRAY])
    if kind == "function":
        name = draw(st.sampled_from(("lower", "upper")))
        field, (text, test) = draw(st.sampled_from(TEXT_FIELDS)), draw(about_a_text())

        def call(known):
            value = known[field]
            return test(None if value is None else getattr(value, name)())

        return f"{name}({field}) {text}", call
    fields, about = {
        "text": (TEXT_FIELDS, about_a_text()),
        "number": (NUMBER_FIELDS, about_a_number()),
        "address": (ADDRESS_FIELDS, about_an_address()),
    }[kind]
    field, (text, test) = draw(st.sampled_from(fields)), draw(about)
    return f"{field} {text}", lambda known: test(known[field])


ORDER = {"or": 0, "xor": 1, "and": 2}  # loosest first


@st.composite
def conditions(draw, depth=3):
    """A condition, and how tight its outermost operator binds."""
    kind = draw(st.sampled_from(("leaf", "not", "and", "or", "xor") if depth else ("leaf",)))
    if kind == "leaf":
        return *draw(leaves()), 4
    if kind == "not":
        text, test, binding = draw(conditions(depth - 1))
        text = text if binding >= 3 and draw(st.booleans()) else f"({text})"
        return f"{draw(st.sampled_from(('not ', '! ')))}{text}", lambda known: not test(known), 3
    parts = [draw(conditions(depth - 1)) for _ in range(draw(st.integers(2, 3)))]
    texts = [text if binding > ORDER[kind] and draw(st.booleans()) else f"({text})" for text, _, binding in parts]
    word = draw(st.sampled_from((kind, {"or": "||", "xor": "^^", "and": "&&"}[kind])))
    combine = {"or": any, "and": all, "xor": lambda results: sum(results) % 2 == 1}[kind]
    tests = [test for _, test, _ in parts]
    return f" {word} ".join(texts), lambda known: combine([test(known) for test in tests]), ORDER[kind]


def as_facts(known):
    return Facts(
        {
            name: ipaddress.ip_address(value).packed if name in ADDRESS_FIELDS and value is not None else value
            for name, value in known.items()
        }
    )


@settings(max_examples=300)
@given(conditions(), st.lists(facts, min_size=3, max_size=3))
def test_a_compiled_condition_says_what_a_naive_reading_says(condition, flows):
    text, oracle, _ = condition
    try:
        expression = compile_expression(text, FIELDS["network"])
    except ExpressionError as error:
        if not error.message.startswith(("can never hold", "longer than")):
            raise
        assume(False)
    for known in flows:
        assert expression.matches(as_facts(known)) == oracle(known), (text, known)
