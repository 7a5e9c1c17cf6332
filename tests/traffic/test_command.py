"""`oxyctl traffic` as it is typed, inside the nodes of a running lab."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from oxyctl.checks.session import Session
from tests.traffic.conftest import traffic

pytestmark = [pytest.mark.netns, pytest.mark.lab("quickstart", scope="module")]


def command(lab, kind, *arguments):
    return [sys.executable, "-m", "oxyctl", "traffic", kind, "--lab", lab.name, *arguments]


def oxyctl(lab, kind, *arguments):
    """Exit code, standard output, standard error."""
    done = subprocess.run(command(lab, kind, *arguments), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def report(lab, kind, *arguments, code=0):
    """The one item of the envelope."""
    found, out, error = oxyctl(lab, kind, *arguments, "--format", "json")
    assert (found, error) == (code, "")
    envelope = json.loads(out)
    assert (envelope["schema"], envelope["kind"]) == ("oxyctl/1", "traffic")
    return envelope["items"][0]


def reports(lab, *asked):
    """Of several requests to one generator in the laptop."""

    async def main():
        async with Session(lab.directory, lab.lab.base) as session:
            return await asyncio.gather(*(session.traffic("laptop", each) for each in asked))

    return asyncio.run(main())


TARGETS = {"http": "https://web/", "tcp": "web:7", "udp": "web:7", "ping": "web"}


def test_each_kind_in_each_family(lab):
    asked = [(kind, family) for family in (4, 6) for kind in TARGETS]
    found = reports(lab, *(traffic(kind, TARGETS[kind], family=family, count=4, rate=100) for kind, family in asked))
    for (kind, family), each in zip(asked, found, strict=True):
        assert (each.kind, each.address) == (kind, "10.50.0.10" if family == 4 else "fd00:50::10")
        assert (each.sent, each.succeeded, each.errors) == (4, 4, {}), kind


def test_what_refuses_and_what_is_out_of_reach(lab):
    refused = [traffic("tcp", "web:81", count=2), traffic("dns", "web", query="web.example", count=1)]
    unreachable = [("tcp", "10.99.0.1:80"), ("ping", "10.99.0.1"), ("ping", "fd00:99::1")]
    found = reports(lab, *refused, *(traffic(kind, target, count=2) for kind, target in unreachable))
    assert [each.errors for each in found] == [{"refused": 2}, {"refused": 1}, *[{"unreachable": 2}] * 3]


def test_traffic_comes_from_inside_the_node_through_the_proxy(lab):
    assert report(lab, "udp", "laptop", "web:7", "-4", "--count", "7", "--size", "1000")["succeeded"] == 7
    (flow,) = lab.flows("acme", protocol="udp", min_bytes=14_000, until=1)
    assert (flow.src, flow.dst, flow.total.client_payload_bytes) == ("100.96.0.2", "10.50.0.10", 7000)


def test_the_table(lab):
    code, out, error = oxyctl(lab, "http", "laptop", "http://web/status/404", "-4", "--count", "3")
    assert (code, error) == (1, "")
    heading, header, figures, *remarks = out.splitlines()
    assert heading.startswith("http from laptop to http://web/status/404 (10.50.0.10): ")
    assert dict(zip(header.split()[:3], figures.split()[:3], strict=True)) == {"SENT": "3", "OK": "0", "FAILED": "3"}
    assert remarks == ["failed: http_404 3; the last one: 404 ", "answers: 404 3"]


def test_progress_is_plain_lines_without_a_terminal(lab):
    asked = command(lab, "ping", "laptop", "web", "--rate", "20", "--count", "10000")
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stderr.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out.startswith("ping from laptop to web")
    assert all(re.fullmatch(r" *\d\.\d s +\d+ done, [^\r\x1b]+\n", line) for line in lines), lines


def test_a_signal_gives_the_report_so_far(lab):
    asked = command(lab, "http", "laptop", "http://web/", "--rate", "20", "--count", "10000")
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:  # each second: how far it is
            if int(line.split()[2]) >= 10:
                break
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "interrupted" in out
    assert int(out.splitlines()[2].split()[1]) >= 10


def test_control_c_on_a_terminal(lab):
    """The terminal sends the signal to all of the foreground: the command, the generator, and what is between them."""
    pid, terminal = pty.fork()
    if pid == 0:
        asked = command(lab, "ping", "laptop", "web", "--rate", "20", "--count", "10000")
        os.execv(asked[0], asked)
    out, is_sent = "", False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: the other end is closed
            break
        out += data.decode(errors="replace")
        if "done" in out and not is_sent:
            os.write(terminal, b"\x03")
            is_sent = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "interrupted" in out


def test_what_is_not_there(lab):
    code, out, error = oxyctl(lab, "ping", "labtop", "web")
    assert (code, out) == (4, "")
    assert "has no node 'labtop'; did you mean 'laptop'?" in error
    code, out, error = oxyctl(lab, "http", "laptop", "http://nosuch/")
    assert (code, out) == (2, "")
    assert error.startswith("error: node 'laptop': 'nosuch' has no address: ")
