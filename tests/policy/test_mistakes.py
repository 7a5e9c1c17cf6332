"""What is said of policies that are wrong, with file, line and column; and that the whole file is refused."""

from __future__ import annotations

import pytest

from tests.policy.files import mistake

RULES = "rules:\n"
MISTAKES = {
    RULES + "- {name: a, action: allow, when: net.dst.prot == 1}":
        "acme.yaml:2:34: unknown field 'net.dst.prot'; did you mean 'net.dst.port'?",
    RULES + "- name: a\n  action: allow\n  when: |\n    net.dst.port == 443 and\n    net.dst.prt == 1":
        "acme.yaml:6:5: unknown field 'net.dst.prt'; did you mean 'net.dst.port'?",
    RULES + '- name: a\n  action: allow\n  when: "net.dst.host == \\"x\\" and net.src.ip in {10.0.0.1/8}"':
        "acme.yaml:4:51: 10.0.0.1/8 has host bits set; did you mean 10.0.0.0/8?",
    RULES + "- {name: a, action: alow}": "acme.yaml:2:21: rules.0.action: unknown value 'alow'; did you mean 'allow'?",
    RULES + "- {name: a, action: allow, porrt: 1}": "acme.yaml:2:28: unknown key 'porrt'; did you mean 'port'?",
    RULES + "- {action: allow}": "acme.yaml:2:3: key 'name' is required",
    RULES + "- {name: a, action: allow}\n- {name: a, action: block}":
        "acme.yaml:3:10: the name 'a' is already used in line 2",
    RULES + "- {name: a, action: allow, refusal: drop}":
        "acme.yaml:2:28: 'refusal' belongs to block, and this rule is allow",
    RULES + "- {name: a, action: inspect, phase: tunnel}":
        "acme.yaml:2:13: a rule of phase tunnel cannot inspect: expected one of allow, block, audit, log",
    RULES + "- {name: a, action: route}": "acme.yaml:2:13: route needs 'offramp'",
    RULES + "- {name: a, action: route, offramp: kernl}":
        "acme.yaml:2:28: unknown off-ramp 'kernl'; did you mean 'kernel'?",
    RULES + "- {name: a, action: rate-limit}":
        "acme.yaml:2:13: rate-limit needs 'flows' (at once), 'flows_per_s', 'bytes_per_s', or several",
    RULES + "- {name: a, action: quarantine, origin: help}":
        "acme.yaml:2:41: origin: expected a port, 1 to 65535, after the address (found 'help')",
    RULES + "- {name: a, action: inspect, level: packet}":
        "acme.yaml:2:30: inspect lifts to stream, tls, http or ssh; for packet there is do-not-inspect",
    RULES + "- {name: a, action: allow, tenant: acme}":
        "acme.yaml:2:28: 'tenant' is for the global policy: this one is acme's",
    RULES + "- {name: a, action: allow, port: https}":
        "acme.yaml:2:28: port: expected a port, 0 to 65535, or a range such as 8000-8010 (found 'https')",
    RULES + "- {name: a, action: allow, dst: 10.0.0.1/8}":
        "acme.yaml:2:28: dst: expected an address, a prefix or a range: 10.0.0.1/8 has host bits set",
    RULES + "- {name: a, action: allow, dst: $offce}\nlists: {office: [10.0.0.0/8]}":
        "acme.yaml:2:33: dst: unknown list '$offce'; did you mean 'office'?",
    RULES + "- {name: a, action: allow, protocol: tpc}":
        "acme.yaml:2:38: protocol: unknown value \"tpc\"; did you mean 'tcp'?",
    RULES + "- {name: a, action: allow, port: []}":
        "acme.yaml:2:28: port: an empty list matches nothing: leave the selector out",
    RULES + "- {name: a, action: allow, phase: tls, when: http.request.host == \"x\"}":
        "acme.yaml:2:46: http.request.host is not known in phase tls: it is in http",
    RULES + "- {name: a, action: allow, when: net.dst.port == 443 and net.dst.port == 80}":
        "acme.yaml:2:58: can never hold: net.dst.port would need two values at once",
    RULES + "- {name: a, action: allow, schedule: {mon: 8-9}}":
        "acme.yaml:2:39: expected times such as \"08:00-17:30\" (found '8-9')",
    RULES + "- {name: a, action: allow, schedule: {mo: 08:00-09:00}}":
        "acme.yaml:2:39: unknown day 'mo'; did you mean 'mon'?",
    RULES + "- {name: a, action: allow, schedule: {mon: 08:00-09:00, time_zone: Mars}}":
        "acme.yaml:2:57: unknown time zone 'Mars'",
    RULES + "- {name: a, action: allow, schedule: {mon: 09:00-08:00}}":
        "acme.yaml:2:39: the end is not after the start: 09:00-08:00",
    "lists:\n  a: [$b]\n  b: [$c]\n  c: [1, $a]": "acme.yaml:4:10: lists include each other: $a -> $b -> $c -> $a",
    "lists:\n  a: [$a]": "acme.yaml:2:7: lists include each other: $a -> $a",
    "lists:\n  a: [$offices]\n  office: [1]": "acme.yaml:2:7: unknown list '$offices'; did you mean 'office'?",
    "lists:\n  a: [10.0.0.0/8, 443]":
        "acme.yaml:2:19: a list holds values of one kind: address so far, and here number",
    "lists:\n  a: [10.0.0.1/8]": "acme.yaml:2:7: 10.0.0.1/8 has host bits set; did you mean 10.0.0.0/8?",
    "lists:\n  a: {file: nowhere.txt}": "acme.yaml:2:13: the file 'nowhere.txt': no such file or directory",
    "lists:\n  a: {file: mixed.txt}":
        "mixed.txt:3:2: a list holds values of one kind: address so far, and here text",
    "default: dney": "acme.yaml:1:10: default: unknown value 'dney'; did you mean 'deny'?",
    "default: {netwrk: deny}": None,
    "rules: 1": "acme.yaml:1:8: rules: expected a list (found 1)",
    "rules:\n- name: [": None,
    "default: deny\ntests:\n- {flow: {dst: '10.0.0.1:80'}, expect: allow}":
        "acme.yaml:3:3: test 1 fails: expected allow, got block by default",
    RULES + "- {name: a, port: 80, action: allow}\ntests:\n- {flow: {dst: '10.0.0.1:80'}, expect: allow, rule: b}":
        "acme.yaml:4:3: test 1 fails: expected allow by rule 'b', got allow by rule 'a'",
    "default: deny\ntests:\n- {flow: {facts: {net.dst.prt: 1}}, expect: allow}":
        "acme.yaml:3:11: unknown field 'net.dst.prt'; did you mean 'net.dst.port'?",
    "default: deny\ntests:\n- {flow: {dst: nowhere}, expect: allow}": None,
    "default: deny\ntests:\n- {flow: {protocol: tpc}, expect: deny}":
        "acme.yaml:3:11: unknown protocol 'tpc'; did you mean 'tcp'?",
    "default: deny\ntests:\n- {flow: {port: 70000}, expect: deny}":
        "acme.yaml:3:11: expected a port, 0 to 65535 (found 70000)",
    RULES + "- {name: a, action: allow, port: [" + ", ".join(map(str, range(1000, 2000))) + "]}":
        "acme.yaml:2:34: port: more values than a rule can hold: put them into a list, and write its name, `$name`",
    RULES + "- name: a\n  action: allow\n  when: |\n    tenant == \"a\" \"b\n    c\"":
        "acme.yaml:5:19: expected 'and', 'or', 'xor' or the end (found '\"b c\"')",
    RULES + "- {name: a,\n   action: \x00allow}": "acme.yaml:3:12: a character that YAML does not allow: '\\x00'",
    "lists: {a: ['" + "9" * 5000 + "']}": "acme.yaml:1:13: a value has at most 4,096 characters (5,000)",
}  # fmt: skip

LISTS = {"mixed.txt": "# a comment\n10.0.0.0/8\n everywhere  # and another\n"}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text.replace("\n", " ")[-50:])
def test_a_mistake_is_one_line_with_its_place(text):
    said = mistake(text, lists=LISTS)
    assert said is not None
    assert "\n" not in said
    assert said.startswith(("acme.yaml:", "mixed.txt:"))
    if MISTAKES[text] is not None:
        assert said == MISTAKES[text]


def test_a_mistake_in_one_file_refuses_all_of_them():
    assert mistake("default: deny", globex="default: dney") == (
        "globex.yaml:1:10: default: unknown value 'dney'; did you mean 'deny'?"
    )
