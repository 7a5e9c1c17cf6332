"""What expressions mean: each holds of the facts, or does not."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.language import Facts, Kind, Values, compile_expression
from tests.policy.language.vocabulary import FACTS, FIELDS

LISTS = {
    "office": Values(Kind.ADDRESS, networks=(ipaddress.ip_network("10.0.0.0/8"),)),
    "web": Values(Kind.NUMBER, frozenset({80}), ((8000, 8999),)),
    "nobody": Values(Kind.TEXT),
}

TRUE = [
    "net.dst.port == 8443",
    "net.dst.port eq 8443",
    "net.dst.port != 443",
    "net.dst.port > 8000 && net.dst.port le 8443",
    "size == 12.5 and size lt 13",
    "net.dst.port in {443 8000..9000}",
    "not net.dst.port in {443 80..90}",
    "net.src.ip == 10.1.2.3",
    "net.src.ip in {10.0.0.0/8 fd00::/8}",
    "net.src.ip in {10.1.2.0..10.1.2.9}",
    "net.src.ip in $office and net.dst.port in $web",
    "not identity.email in $nobody",
    'net.protocol == "tcp" xor device.managed == false',
    "device.managed",
    "not not device.managed",
    'identity.email contains "@acme."',
    'identity.email wildcard "bob@*.example"',
    'identity.email strict wildcard "Bob@*.example"',
    'not identity.email strict wildcard "bob@*.example"',
    'identity.email matches "^[A-Z]ob@acme[.]example$"',
    'identity.email ~ r"^\\w+@acme\\.example$"',
    'identity.email ~ r#"^(?i)bob"#',
    'lower(identity.email) == "bob@acme.example"',
    'upper(identity.email) == "BOB@ACME.EXAMPLE"',
    "len(identity.email) == 16",
    "any(len(identity.groups[*].name) == 5)",
    "len(device_posture.checks.passed) > 1",
    'starts_with(identity.email, "Bob") and ends_with(identity.email, ".example")',
    'concat(identity.email, "!") == "Bob@acme.example!"',
    'substring(identity.email, 0, 3) == "Bob" and substring(identity.email, -7) == "example"',
    'to_string(net.src.ip) == "10.1.2.3" and to_string(net.dst.port) == "8443"',
    "cidr(net.src.ip, 16, 64) == 10.1.0.0",
    'any(identity.groups[*].name == "staff")',
    'any(lower(identity.groups[*].name) in {"developers"})',
    'all(identity.groups[*].name in {"staff" "Developers" "others"})',
    'not any(not identity.groups[*].name in {"staff" "Developers"})',
    'any(device_posture.checks.passed[*] == "disk")',
    'device_posture.checks.passed[1] == "firewall"',
    "any(dns.resolved_ips[*] in {203.0.113.0/31})",
    "not all(dns.resolved_ips[*] in {203.0.113.0/31})",
    'any(http.request.headers["Accept"][*] contains "html")',
    'url_decode(http.request.headers["x-path"][0]) == "/a b"',
    'not any(http.request.headers["missing"][*] contains "")',
    'net.dst.port == 1 or net.dst.port == 2 and net.protocol == "udp" or device.managed',  # and binds tighter
    'not net.protocol == "udp" and device.managed',  # not binds tightest
    "net.src.ip != net.dst.ip",
    'identity.email == "a\\x42c" or identity.email == "Bob\\x40acme.example"',
]

FALSE = [
    "net.dst.port == 443",
    "net.src.ip == ::1",
    "net.src.ip in {10.2.0.0/16}",
    'identity.user == "bob"',  # not known: nothing compares to it
    'identity.user contains ""',
    'identity.user matches ".*"',
    "len(identity.user) >= 0",
    'lower(identity.user) == "bob"',
    "identity.user == identity.email",
    'device_posture.checks.passed[7] == "disk"',
    'any(identity.groups[*].name == "Staff")',  # texts mind case
]


@pytest.mark.parametrize("text", TRUE)
def test_it_holds(text):
    assert compile_expression(text, FIELDS, LISTS).matches(FACTS) is True


@pytest.mark.parametrize("text", FALSE)
def test_it_does_not_hold(text):
    assert compile_expression(text, FIELDS, LISTS).matches(FACTS) is False


def test_what_is_missing_is_not_equal():
    assert compile_expression('identity.user != "bob"', FIELDS).matches(FACTS)
    assert compile_expression('any(identity.groups[*].name == "x")', FIELDS).matches({}) is False


def test_plain_mappings_are_facts_too():
    assert compile_expression('net.dst.port == 1 and identity.user != "x"', FIELDS).matches({"net.dst.port": 1})


addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@st.composite
def networks(draw):
    address = draw(addresses)
    bits = len(address) * 8
    return ipaddress.ip_network((address, draw(st.integers(0, bits))), strict=False)


@given(st.lists(networks(), min_size=1, max_size=20), st.lists(addresses, max_size=20))
def test_sets_of_prefixes_agree_with_ipaddress(prefixes, strangers):
    edges = [edge.packed for prefix in prefixes for edge in (prefix.network_address, prefix.broadcast_address)]
    condition = compile_expression(f"net.src.ip in {{{' '.join(map(str, prefixes))}}}", FIELDS)
    for address in (*edges, *strangers):
        expected = any(ipaddress.ip_address(address) in prefix for prefix in prefixes)
        assert condition.matches(Facts({"net.src.ip": address})) == expected


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), min_size=1, max_size=10), st.integers(0, 400))
def test_ranges_agree_with_comparisons(pairs, number):
    written = " ".join(f"{low}..{low + more}" for low, more in pairs)
    expected = any(low <= number <= low + more for low, more in pairs)
    assert compile_expression(f"size in {{{written} 401}}", FIELDS).matches({"size": number}) == expected


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_can_be_written(text):
    written = text.replace("\\", "\\\\").replace('"', '\\"')
    assert compile_expression(f'identity.email == "{written}"', FIELDS).matches({"identity.email": text})


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_wildcards_agree_with_regular_expressions(pattern, text):
    wild = compile_expression(f'identity.email strict wildcard "{pattern}"', FIELDS)
    same = compile_expression(f'identity.email matches "^{pattern.replace("*", ".*")}$"', FIELDS)
    assert wild.matches({"identity.email": text}) == same.matches({"identity.email": text})
