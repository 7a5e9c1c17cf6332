"""The pytest plugin, used as its users do: by pytest runs of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.labs.conftest import eventually

ROOT = Path(__file__).parents[2]
LAB = """
networks: {lan: {subnets: [10.7.0.0/24, "fd00:7::/64"]}}
nodes:
  edge:   {kind: proxy, networks: [lan], tenants: {acme: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme}
  web:    {kind: upstream, networks: [lan], services: {http: 80}}
checks:
  - {kind: http, name: web answers, from: laptop, url: "http://web/"}
  - {kind: tcp, name: closed, from: laptop, to: "web:81"}
"""
SMALL = "nodes: {one: {kind: process, command: [sleep, '600']}}\n"


class Runs:
    """pytest runs in a directory, with a run directory of labs beside it."""

    def __init__(self, directory):
        self.directory, self.run = directory, directory / "run"
        self.environment = os.environ | {"OXYCTL_RUN_DIR": str(self.run), "PYTHONPATH": str(ROOT)}
        self.environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # hypothesis takes longer than a small lab
        self.environment.pop("PYTEST_ADDOPTS", None)
        (directory / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
        (directory / "labs").mkdir()
        (directory / "labs" / "x.yaml").write_text(LAB)
        (directory / "labs" / "small.yaml").write_text(SMALL)

    def write(self, text, name="test_it.py"):
        (self.directory / name).write_text(text)

    def command(self, *arguments):
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "oxyctl.testing", "-q", *arguments]

    def pytest(self, *arguments):
        """Its exit code, and all that it printed."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
        )
        return done.returncode, done.stdout + done.stderr

    def labs(self):
        """The names of those that left anything."""
        return sorted(path.name for path in (self.run / "labs").glob("*"))


@pytest.fixture
def runs(tmp_path):
    made = Runs(tmp_path)
    yield made
    for name in made.labs():
        subprocess.run([sys.executable, "-m", "oxyctl", "lab", "down", name], env=made.environment, check=True)


def test_help_tells_of_it(runs):
    code, out = runs.pytest("--help")
    assert code == 0
    assert re.search(r"--lab-keep +leave the labs of failed tests up", out)
    assert "--lab-capture=DIR" in out
    assert "@pytest.mark.lab(source" in runs.pytest("--markers")[1]


def test_pytest_pays_for_it_only_when_it_is_used():
    code = "import sys, pytest; before = set(sys.modules); import oxyctl.testing; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(done.stdout.split()) == {"oxyctl", "oxyctl.testing"}


def test_it_is_found_without_being_asked_for():
    done = subprocess.run([sys.executable, "-m", "pytest", "--trace-config", "--co", "-q", "tests/meta/imports.py"],
                          capture_output=True, text=True, cwd=ROOT, check=False)  # fmt: skip
    assert "oxyctl.testing" in done.stdout


USE = """
import subprocess
import pytest

pytestmark = pytest.mark.lab("labs/x.yaml", scope="module")

def test_nodes(lab):
    assert lab.nodes == ["edge", "laptop", "web"]
    assert lab.status().state == "up"
    laptop = lab["laptop"]
    assert laptop.addresses == ["100.96.0.2", "fd00:96::2"]
    done = laptop.exec(["sh", "-c", "cat; echo $OXYCTL_NODE; exit 5"], input="in")
    assert (done.returncode, done.stdout) == (5, "inlaptop\\n")
    with pytest.raises(subprocess.CalledProcessError):
        laptop.exec(["false"], check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        laptop.exec(["sleep", "60"], timeout=0.5)

def test_http_and_flows(lab):
    answer = lab["laptop"].http("http://web/bytes/1000", family=4)
    assert (answer.status, answer.length) == (200, 1000)
    (flow,) = lab.flows("acme", dst_port=80, until=lambda found: found and found[0].state == "closed")
    assert flow.dst == lab["web"].addresses[0]
    assert flow.total.origin_payload_bytes > 1000
    assert lab["laptop"].traffic("tcp", "web:81", count=1).errors == {"refused": 1}
    (refused,) = lab.flows("acme", dst_port=81, until=1)
    assert refused.close_reason == "origin_refused"
    assert 'oxy_tunnels{tenant="acme"} 1' in lab.metrics()
    with pytest.raises(AssertionError, match="refused"):
        lab["laptop"].http("http://web:81/")
    with pytest.raises(AssertionError, match="expected flows did not appear"):
        lab.flows("acme", dst_port=4242, until=1, timeout=0.1)

def test_checks(lab):
    assert [result.state for result in lab.check("web answers")] == ["passed"]
    with pytest.raises(AssertionError, match="actual: +refused after"):
        lab.check()

def test_it_is_the_same_lab(lab):
    assert lab.name.startswith("test-x-")
    assert lab.flows("acme", dst_port=80)
"""


@pytest.mark.netns
def test_a_lab_and_its_nodes(runs):
    runs.write(USE)
    code, out = runs.pytest()
    assert code == 0, out
    assert "4 passed" in out
    assert runs.labs() == []


FAIL = """
import pytest

@pytest.mark.lab("labs/x.yaml")
def test_fails(lab):
    lab["laptop"].http("http://web/")
    lab.flows("acme", dst_port=80, until=lambda found: found and found[0].state == "closed")
    assert lab.name == ""

def test_text(lab_factory):
    one, two = lab_factory(SMALL), lab_factory(SMALL)
    assert one.name != two.name
    assert one["one"].exec(["hostname"]).stdout == "one\\n"
"""


@pytest.mark.netns
def test_a_failure_shows_what_the_lab_saw(runs):
    runs.write(f"SMALL = {SMALL!r}\n{FAIL}")
    code, out = runs.pytest("--lab-capture", "packets")
    assert (code, "1 failed, 1 passed" in out) == (1, True), out
    assert re.search(r"-+ test-x-\d+-1: log of edge -+", out)
    assert re.search(r"-+ test-x-\d+-1: flows of edge -+\nTENANT ", out)
    assert "client_closed" in out
    (capture,) = (runs.directory / "packets").glob("*/capture.pcapng")
    assert capture.stat().st_size > 1000
    assert str(capture) in out
    assert runs.labs() == []


@pytest.mark.netns
def test_a_failed_tests_lab_can_be_kept(runs):
    runs.write(f"SMALL = {SMALL!r}\ndef test_keep(lab_factory): lab_factory(SMALL); assert 0\n")
    code, out = runs.pytest("--lab-keep")
    assert code == 1
    (name,) = runs.labs()
    assert f"`oxyctl lab down {name}` ends it" in out


@pytest.mark.netns
def test_under_xdist_each_test_has_its_own(runs):
    runs.write(
        'import pytest\n@pytest.mark.lab("labs/small.yaml")\n@pytest.mark.parametrize("n", range(4))\n'
        "def test_one(lab, n): print('NAME', lab.name); assert n < 0\n"
    )
    code, out = runs.pytest("-p", "xdist", "-n", "2")
    assert (code, "4 failed" in out) == (1, True), out
    assert len(set(re.findall(r"NAME (\S+)", out))) == 4
    assert runs.labs() == []


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_labs_end_however_pytest_ends(runs, number):
    runs.write(
        'import pytest, signal\n@pytest.mark.lab("labs/small.yaml")\n'
        "def test_long(lab):\n    print('READY', flush=True)\n    signal.pause()\n"
    )
    with subprocess.Popen(
        runs.command("-s"), cwd=runs.directory, env=runs.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert next((line for line in process.stdout if "READY" in line), None)
        assert len(runs.labs()) == 1
        process.send_signal(number)
        process.stdout.read()
    eventually(lambda: runs.labs() == [], "the lab of a pytest that ended is gone")


@pytest.mark.netns
def test_what_makes_no_sense_is_one_message(runs):
    runs.write(
        """
import pytest
def test_no_marker(lab): pass
@pytest.mark.lab("labs/none.yaml")
def test_no_file(lab): pass
@pytest.mark.lab("labs/x.yaml", scope="class")
def test_no_scope(lab): pass
@pytest.mark.lab("nodes:\\n  one: {kind: proces}\\n")
def test_bad_text(lab): pass
@pytest.mark.lab("nodes:\\n  one: {kind: process, command: [no-such-program]}\\n")
def test_bad_command(lab): pass
"""
    )
    code, out = runs.pytest()
    assert (code, "5 errors" in out) == (1, True), out
    assert "the fixture `lab` needs a marker" in out
    assert "no lab file labs/none.yaml below " in out
    assert "@pytest.mark.lab takes scope=function|module|session" in out
    assert "unknown value 'proces'; did you mean 'process'?" in out
    assert "node 'one': cannot start no-such-program: No such file or directory" in out
    assert "Traceback" not in out
    assert runs.labs() == []
