"""`logs` of labs that live and of labs that do not, and programs that write without end."""

from __future__ import annotations

import os
import signal

import pytest

from tests.labs.conftest import eventually, processes_of

pytestmark = [pytest.mark.netns, pytest.mark.user("rootless")]

TALKERS = """
nodes:
  first:
    kind: process
    command: [sh, -c, "echo 1; until [ -e three ]; do sleep 0.05; done; echo 3; exec sleep 600"]
  second:
    kind: process
    command: [sh, -c, "until [ -e two ]; do sleep 0.05; done; echo 2; exec sleep 600"]
"""
FLOOD = """
nodes:
  flood:
    kind: process
    command: [sh, -c, "head -c 100000000 /dev/zero | tr '\\\\0' x; echo; echo done; exec sleep 600"]
"""


def started(machine, text):
    machine.oxyctl("lab", "up", machine.file("talk.yaml", text))


def test_lines_of_all_nodes_in_the_order_in_which_they_were_written(machine):
    started(machine, TALKERS)
    expected = ["first | 1", "second | 2", "first | 3"]
    for count, cue in enumerate(["one", "two", "three"], 1):
        machine.file(cue, "")
        shown = expected[:count]
        eventually(lambda shown=shown: machine.oxyctl("lab", "logs").stdout.splitlines() == shown, shown[-1])
    assert machine.oxyctl("lab", "logs", "--tail", "1").stdout == "first | 3\n"
    assert machine.oxyctl("lab", "logs", "first", "--tail", "1").stdout == "3\n"
    assert machine.oxyctl("lab", "logs", "--since", "5m").stdout.splitlines() == expected
    assert machine.oxyctl("lab", "logs", "--since", "1ms").stdout == ""
    assert "expected a duration" in machine.oxyctl("lab", "logs", "--since", "yesterday", code=2).stderr


def test_a_program_of_the_labs_own_has_a_log_as_a_node_has(machine):
    web = "  web: {kind: upstream, services: {http: 80}}\n"
    machine.oxyctl("lab", "up", machine.file("talk.yaml", "nodes:\n" + web))
    (machine.run / "labs" / "talk" / "log" / "services.log").write_text("web: of a node\nof all\n")
    assert machine.oxyctl("lab", "logs", "services").stdout == "web: of a node\nof all\n"
    assert machine.oxyctl("lab", "logs", "web").stdout == "of a node\n"
    assert "has no node 'service'" in machine.oxyctl("lab", "logs", "service", code=4).stderr
    assert "has no node '../log/services'" in machine.oxyctl("lab", "logs", "../log/services", code=4).stderr


def test_following_goes_on_until_the_supervisor_dies_and_the_last_logs_stay(machine):
    started(machine, TALKERS)
    with machine.start("lab", "logs", "-f") as following:
        for cue, line in {"one": "first | 1\n", "two": "second | 2\n", "three": "first | 3\n"}.items():
            machine.file(cue, "")
            assert following.stdout.readline() == line
        os.kill(machine.supervisor(), signal.SIGKILL)
        assert following.communicate(timeout=20)[0] == ""
    assert following.returncode == 0
    assert machine.oxyctl("lab", "logs", "second").stdout == "2\n"
    assert machine.oxyctl("lab", "logs", "-f", "--lab", "talk", "second").stdout == "2\n"
    machine.oxyctl("lab", "gc")
    machine.oxyctl("lab", "logs", code=5)


@pytest.mark.slow
def test_a_flood_keeps_the_run_directory_bounded(machine):
    largest = 0

    def is_done():
        nonlocal largest
        logs = machine.run / "labs" / "talk" / "log"
        sizes = []
        for path in logs.glob("flood.*"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:  # it was just renamed
                continue
        largest = max(largest, sum(sizes))
        log = logs / "flood.log"
        if not log.exists():
            return False
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 6))
            return file.read() == b"\ndone\n"

    started(machine, FLOOD)
    eventually(is_done, "all of it was written")
    assert 10 << 20 < largest < 21 << 20
    assert machine.oxyctl("lab", "logs", "flood", "--tail", "1").stdout == "done\n"
    assert any("sleep 600" in command for command in processes_of(machine.run).values())
