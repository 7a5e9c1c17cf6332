"""`oxyctl lab check` against running labs: what passes, what fails and how that is told."""

from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from oxyctl.topology.file import load
from oxyctl.topology.library import find_file
from tests.labs.conftest import machine

__all__ = ["machine"]

pytestmark = [pytest.mark.netns, pytest.mark.lab("quickstart", scope="module")]
QUICKSTART = find_file("quickstart")


def test_the_quickstart_keeps_its_promises(machine):
    machine.oxyctl("lab", "up", "quickstart")
    junit = machine.directory / "junit.xml"
    done = machine.oxyctl("lab", "check", "--junit", junit, "--format", "json")
    items = json.loads(done.stdout)["items"]
    assert [item["name"] for item in items] == [check.title() for check in load(QUICKSTART).checks]
    assert {item["state"] for item in items} == {"passed"}
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("quickstart", str(len(items)), "0")


@pytest.fixture
def check(lab, tmp_path):
    """Check the running lab by these lines; exit code, standard output, standard error."""
    nodes = QUICKSTART.read_text().partition("\nchecks:")[0]

    def call(*lines, arguments=()):
        file = tmp_path / "lab.yaml"
        file.write_text("\n".join([nodes, "checks:", *(f"  - {{{line}}}" for line in lines)]))
        words = [sys.executable, "-m", "oxyctl", "lab", "check", lab.name, *arguments, "--file", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    return call


def actual(out):
    """The actual outcome of each check that failed."""
    return [line.partition("actual:")[2].strip() for line in out.splitlines() if line.startswith("        actual:")]


def test_the_story_of_a_failure(check):
    code, out, error = check(
        'kind: http, name: fine, from: laptop, url: "http://web/"',
        'kind: http, name: wrong, from: laptop, url: "http://web/status/503", family: 4',
    )
    assert (code, error) == (3, "")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0].startswith("ok      fine  (")
    assert lines[1].startswith("FAILED  wrong  (")
    assert lines[2:5] == [
        "tried:    GET http://web/status/503 from laptop (10.50.0.10)",
        "expected: status 200",
        "actual:   status 503, 0 bytes",
    ]
    assert "the last flows of edge:" in lines
    assert [line for line in lines if "10.50.0.10:80" in line and "alice@acme.example" in line]
    assert "the end of the log of edge:" in lines
    assert lines[-1].startswith("1 of 2 failed, in ")


NO_SUCH = "0" * 64
FAILING = [
    ('kind: http, from: laptop, url: "http://web/bytes/5", length: 6', "status 200, 5 bytes: "),
    (f'kind: http, from: laptop, url: "http://web/bytes/5", sha256: "{NO_SUCH}"', "status 200, 5 bytes with SHA-256 "),
    ('kind: http, from: laptop, url: "http://web/", contains: nonsense', "status 200, "),
    ('kind: http, from: laptop, url: "http://web:81/"', "refused: "),
    ('kind: tcp, from: laptop, to: "web:7", expect: [refused, timeout]', "connected after "),
    ('kind: udp, from: laptop, to: "web:81", timeout: 1', "0 of 5 answered, "),
    ('kind: udp, from: laptop, to: "web:7", expect: refused', "5 of 5 answered"),
    ("kind: ping, from: laptop, to: web, rtt: 1ms, count: 2, size: 60000", "2 of 2 answered, the slowest in "),
    ("kind: ping, from: laptop, to: 10.99.0.1", "0 of 3 answered, 3 unreachable"),
    ("kind: dns, from: laptop, server: web, query: x.example", "refused: Connection refused"),
    (
        "kind: exec, from: laptop, command: [sh, -c, echo out; echo err >&2; exit 7]",
        "exit code 7, output: 'out', errors: 'err'",
    ),
    ("kind: exec, from: laptop, command: [sleep, '60'], timeout: 300ms",
     "it was still running after 0.3 s, and was killed"),
    ("kind: exec, from: laptop, command: [echo, hello], matches: ^x", "exit code 0, output: 'hello'"),
    ("kind: exec, from: laptop, command: [no-such-program]", "exit code 127, errors: "),
    ("kind: flows, tenant: acme, where: {dst_port: 4242}, timeout: 200ms", "0, of 0 that the filters select"),
    ("kind: metric, metric: oxy_tunnels, value: 2, timeout: 200ms", "1"),
    ("kind: metric, metric: oxy_tunels, value: 0, timeout: 200ms", "no such metric"),
]  # fmt: skip


def test_each_kind_says_what_came(check):
    code, out, _ = check(*(line for line, _ in FAILING))
    assert code == 3
    told = actual(out)
    assert len(told) == len(FAILING)
    wrong = [(wanted, found) for (_, wanted), found in zip(FAILING, told, strict=True) if not found.startswith(wanted)]
    assert wrong == []


PASSING = [
    'kind: tcp, from: [laptop, edge], to: "web:7"',
    'kind: udp, from: laptop, to: "web:81", expect: refused, timeout: 2',
    "kind: exec, from: laptop, command: [sh, -c, 'echo $OXYCTL_NODE; exit 3'], exit_code: 3, matches: ^laptop$",
    "kind: exec, from: laptop, command: [cat, lab.yaml], contains: [web, 'cat, lab.yaml']",  # beside the lab file
    'kind: flows, tenant: acme, where: {protocol: tcp, dst_port: 7}, fields: {user: "~ ^alice", up: 0, state: closed}',
    "kind: flows, tenant: acme, where: {dst_port: 4242}, at_least: 0, at_most: 0",
    "kind: flows, tenant: acme, since: 1h, fields: {close_reason: [client_closed, origin_closed]}",
    "kind: metric, metric: oxy_tunnels, labels: {tenant: acme}, op: ==, value: 1",
]


def test_each_kind_passes(check):
    code, out, _ = check(*PASSING)
    assert (code, actual(out)) == (0, [])
    assert f"all {len(PASSING) + 1} passed" in out
    assert "tcp web:7 (from edge)" in out


DROPPED = [
    ('by: tcp, to: "10.50.0.77:80", canary: "web:80"', None),
    ("by: ping, to: 10.99.0.1, canary: web", None),
    ('by: http, to: "http://10.50.0.77/", canary: "http://web/status/404"', None),
    ('by: udp, to: "10.50.0.77:7", canary: "web:7"', None),
    ('by: tcp, to: "web:81", canary: "web:80", expect: [refused]', None),
    ('by: tcp, to: "web:81", canary: "web:80"', "web:81: refused; both canaries arrived"),
    ('by: tcp, to: "web:7", canary: "web:80"', "web:7: arrived; both canaries arrived"),
    (
        'by: tcp, to: "10.50.0.78:80", canary: "web:81"',
        "the canary before it did not arrive (refused), so nothing is proven; 10.50.0.78:80: timeout",
    ),
]


def test_dropped_is_believed_only_between_canaries_that_arrive(check):
    code, out, _ = check(*(f"kind: dropped, from: laptop, timeout: 1, {line}" for line, _ in DROPPED))
    assert code == 3
    words = [line.split()[0] for line in out.splitlines() if line.startswith(("ok ", "FAILED "))]
    assert words == ["FAILED" if said else "ok" for _, said in DROPPED]
    assert actual(out) == [said for _, said in DROPPED if said]


def test_a_check_that_becomes_true_is_waited_for(check, tmp_path):
    """The first attempt makes what the second one finds."""
    file = tmp_path / "made"
    made = f"kind: exec, from: laptop, command: [sh, -c, 'test -e {file} || ! touch {file}']"
    assert check(f"{made}, retry_until: 10s")[0] == 0
    file.unlink()
    assert check(made)[0] == 3


def test_a_mistake_in_the_file_is_told_with_its_place(check):
    code, out, error = check("kind: ping, from: labtop, to: web")
    assert (code, out) == (2, "")
    assert "lab.yaml:" in error
    assert "unknown node 'labtop'; did you mean 'laptop'?" in error


def test_a_node_that_the_running_lab_lacks_breaks_only_its_own_check(lab, tmp_path):
    file = tmp_path / "lab.yaml"
    more = "  phone: {kind: warp, proxy: edge, tenant: acme}\n"
    checks = "checks: [{kind: ping, from: phone, to: web}, {kind: ping, from: laptop, to: web}]"
    file.write_text(QUICKSTART.read_text().partition("\nchecks:")[0] + "\n" + more + checks)
    words = [sys.executable, "-m", "oxyctl", "lab", "check", lab.name, "--file", str(file), "--format", "json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    first, second = json.loads(done.stdout)["items"]
    assert (done.returncode, first["state"], second["state"]) == (3, "broken", "passed")
    assert "has no node 'phone'" in first["actual"]


def test_a_lab_without_checks_and_a_file_that_is_gone(lab_factory, tmp_path):
    file = tmp_path / "bare.yaml"
    file.write_text("nodes: {one: {kind: process, command: [sleep, '600']}}")
    bare = lab_factory(file)
    words = [sys.executable, "-m", "oxyctl", "lab", "check", "--lab", bare.name]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {file} has no checks: add some under `checks:`\n")
    file.unlink()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, "is gone" in done.stderr) == (2, True)
