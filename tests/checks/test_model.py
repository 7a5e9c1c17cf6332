"""What `checks:` may say, and the one message with its place for what it may not."""

from __future__ import annotations

import pytest

from oxyctl.topology.checks import HttpCheck, PingCheck, TcpCheck
from oxyctl.topology.checks.values import is_met
from proxy.settings import DocumentError
from tests.checks.conftest import LAB

LINE = LAB.count("\n") + 1
EVERY_KIND = [
    'kind: http, from: laptop, url: "http://web/", status: [200, 204], contains: [a, b], verify: true, family: 6',
    'kind: tcp, from: [laptop, phone], to: "web:81", expect: [refused, timeout]',
    'kind: udp, from: laptop, to: "web:7", count: 3, loss: 10%',
    "kind: ping, from: laptop, to: web, rtt: 50ms, loss: 0.5",
    "kind: dns, from: laptop, server: 10.50.0.9, query: web.example, type: AAAA, answers: [fd00::1], over: tcp",
    'kind: exec, from: laptop, command: [ls], exit_code: 0, matches: "^x", retry_until: 5s',
    'kind: flows, tenant: acme, where: {dst_port: [80, 443]}, fields: {up: ">= 5", user: null}, at_most: 4, since: 1h',
    "kind: metric, metric: oxy_flows, labels: {tenant: acme}, op: ==, value: 3, proxy: edge",
    'kind: dropped, from: laptop, by: http, to: "http://10.50.0.77/", canary: "http://web/", expect: [timeout]',
    'kind: impair, link: "berlin:internet", delay: 20ms, loss: 1%, down: false',
    "kind: tunnel, site: berlin, health: [healthy, degraded], by: kernel, edge: user space",
    "kind: node, do: restart, node: [edge, web], timeout: 1m",
]


def test_every_kind(checks):
    found = checks(*EVERY_KIND)
    kinds = [check.kind for check in found]
    assert kinds == [
        "http",
        "tcp",
        "udp",
        "ping",
        "dns",
        "exec",
        "flows",
        "metric",
        "dropped",
        "impair",
        "tunnel",
        "node",
    ]
    assert isinstance(found[0], HttpCheck)
    assert isinstance(found[1], TcpCheck)
    assert found[1].sources == ["laptop", "phone"]
    assert isinstance(found[3], PingCheck)
    assert (found[5].retry_until, found[5].timeout_s, found[8].timeout_s) == ("5s", 30, 2)
    assert found[6].pairs() == [("tenant", "acme"), ("dst_port", "80"), ("dst_port", "443")]


def test_a_check_without_a_name_says_what_it_does(checks):
    assert [check.title() for check in checks(*EVERY_KIND)[:2]] == ["http http://web/", "tcp web:81"]
    assert checks("kind: ping, from: laptop, to: web, name: it lives")[0].title() == "it lives"


# a line, where in it the message points, and the message
MISTAKES = [
    ("kind: htp, from: laptop", "htp", "checks.0.kind: unknown value 'htp'; did you mean 'http'?"),
    ("from: laptop, url: x", "{", "key 'kind' is required"),
    ('kind: tcp, to: "web:80"', "{", "key 'from' is required"),
    ('kind: tcp, from: laptop, too: "web:80"', "too:", "unknown key 'too'; did you mean 'to'?"),
    ('kind: tcp, from: labtop, to: "web:80"', "labtop", "unknown node 'labtop'; did you mean 'laptop'?"),
    ('kind: tcp, from: [laptop, fone], to: "web:80"', "fone", "unknown node 'fone'; did you mean 'phone'?"),
    ('kind: tcp, from: [], to: "web:80"', "[]", "at least one node is required"),
    ('kind: tcp, from: laptop, to: "wep:80"', '"wep:80"', "unknown node 'wep'; did you mean 'web'?"),
    ("kind: tcp, from: laptop, to: web", "web", "no port: 'web' (write web:80)"),
    ('kind: tcp, from: laptop, to: "web:80", expect: denied', "denied", "unknown value 'denied'"),
    ('kind: http, from: laptop, url: "http://wep/"', '"http://wep', "unknown node 'wep'; did you mean 'web'?"),
    ("kind: http, from: laptop, url: web", "web", "not a URL: 'web'"),
    ("kind: ping, from: laptop, to: web, loss: 200%", "200%", "not a share: '200%'"),
    ("kind: ping, from: laptop, to: web, rtt: soon", "soon", "not a duration: 'soon'"),
    ("kind: ping, from: laptop, to: web, timeout: 0", "0", "not a duration: 0"),
    ("kind: dns, from: laptop, server: web, query: a..b", "a..b", "not a DNS name: 'a..b'"),
    (
        "kind: dns, from: laptop, server: web, query: x, type: AAA",
        "AAA",
        "unknown record type 'AAA'; did you mean 'AAAA'?",
    ),
    ("kind: exec, from: laptop, command: [x], matches: '('", "'('", "missing ), unterminated subpattern"),
    ("kind: flows, tenant: acne", "acne", "unknown tenant 'acne'; did you mean 'acme'?"),
    ("kind: flows, tenant: acme, where: {prot: 80}", "prot", "unknown filter 'prot'; did you mean 'port'?"),
    ("kind: flows, tenant: acme, where: {port: http}", "http", "port: not a port: 'http'"),
    ("kind: flows, tenant: acme, fields: {byte: 80}", "byte", "unknown field 'byte'; did you mean 'bytes'?"),
    ('kind: flows, tenant: acme, fields: {up: "> x"}', '"> x"', "not a number: 'x'"),
    ("kind: flows, tenant: acme, at_least: 3, at_most: 2", "2", "at_most is less than at_least (3)"),
    ("kind: flows, tenant: acme, proxy: web", "web", "node 'web' is not a proxy; expected one of: edge"),
    ("kind: dropped, from: laptop, by: udp, to: web, canary: 'web:7'", "web,", "no port: 'web'"),
    (
        "kind: impair, link: 'web:internt', down: true",
        "'web:internt'",
        "unknown link 'web:internt'; did you mean 'web:",
    ),
    ("kind: impair, link: internet", "{", "one of rate, delay, jitter, loss, down and clear is required"),
    ("kind: impair, link: internet, loss: 120%", "120%", "expected a share"),
    ("kind: node, do: kill, node: edg", "edg", "unknown node 'edg'; did you mean 'edge'?"),
    ("kind: node, do: kil, node: edge", "kil,", "unknown value 'kil'; did you mean 'kill'?"),
    ("kind: node, do: stop, node: [web, edge, web]", "web]", "node 'web' is listed twice"),
    ("kind: node, do: stop, node: []", "[]", "checks.0.node: "),
    ("kind: tunnel, site: berln", "berln", "unknown site 'berln'; did you mean 'berlin'?"),
    ("kind: tunnel, site: web", "web", "node 'web' is not a site; expected one of: berlin"),
    ("kind: tunnel, site: berlin, health: dawn", "dawn", "checks.0.health: "),
]


@pytest.mark.parametrize(("line", "spot", "message"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_a_mistake_is_one_message_with_its_place(checks, line, spot, message):
    with pytest.raises(DocumentError) as caught:
        checks(line)
    column = f"  - {{{line}}}".rindex(spot) + 1
    assert str(caught.value).startswith(f"lab.yaml:{LINE}:{column}: ")
    assert message in str(caught.value)


def test_names_are_unique(checks):
    with pytest.raises(DocumentError, match="another check is named 'a'"):
        checks("kind: ping, name: a, from: laptop, to: web", "kind: ping, name: a, from: phone, to: web")


@pytest.mark.parametrize(
    ("expected", "found", "is_so"),
    [
        (80, 80, True),
        (80, 81, False),
        ("80", 80, True),
        ("client", "client", True),
        (None, None, True),
        (None, 0, False),
        ("client", None, False),
        (["client", "origin"], "origin", True),
        (["client", None], None, True),
        (["client", "origin"], "proxy", False),
        (">= 10", 10, True),
        (">=10", 9, False),
        ("< 0.5", 0.25, True),
        ("> 1", None, False),
        ("!= client", "origin", True),
        ("!= client", None, True),
        ("!= 5", 5, False),
        ("== 5", 5.0, True),
        ("~ ^10[.]50[.]", "10.50.0.1", True),
        ("~ ^10[.]50[.]", "10.51.0.1", False),
        ("~ x", None, False),
        (True, True, True),
    ],
)
def test_what_is_expected_of_a_value(expected, found, is_so):
    assert is_met(expected, found) is is_so
