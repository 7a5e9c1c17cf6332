"""`exec` in one node and in many, `shell`, and a terminal that is passed on whole."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import termios

import pytest

from tests.labs.conftest import eventually, processes_of

pytestmark = [pytest.mark.netns, pytest.mark.user("rootless")]

TRIO = """
nodes:
  one:   {kind: process, command: [sleep, "600"], labels: {role: client, site: berlin}}
  two:   {kind: process, command: [sleep, "600"], labels: {role: client}}
  three: {kind: process, command: [sleep, "600"]}
"""


@pytest.fixture(scope="module")
def trio(shared_machine):
    """Three nodes that do nothing."""
    shared_machine.oxyctl("lab", "up", shared_machine.file("trio.yaml", TRIO))
    return shared_machine


class Terminal:
    """A program with a terminal of its own, as its controlling one; what it writes, and keys to press."""

    def __init__(self, machine, *arguments, rows=33, columns=101, program=(), **environment):
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        command = [
            "setsid",
            "--ctty",
            "--wait",
            *([*machine.prefix, *program] if program else machine.command(*arguments)),
        ]
        environment = machine.environment | environment
        self.process = subprocess.Popen(command, env=environment, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        os.set_blocking(self.master, False)
        self.seen = ""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def press(self, keys):
        os.write(self.master, keys.encode())

    def read(self):
        try:
            self.seen += os.read(self.master, 65_536).decode(errors="replace")
        except OSError:  # nothing there, or nobody at the other end
            pass
        return self.seen

    def until(self, text):
        eventually(lambda: text in self.read(), f"{text!r} on the terminal, where there is {self.seen!r}")

    def end(self):
        eventually(lambda: (self.read(), self.process.poll() is not None)[1], f"its end; it wrote {self.seen!r}")
        return self.process.returncode


def test_in_all_nodes_each_line_says_whose_it_is(trio):
    done = trio.oxyctl("lab", "exec", "--all", "--", "sh", "-c", "hostname; echo oops >&2; printf unended")
    expected = [f"{node} | {text}" for node in ("one", "two", "three") for text in (node, "unended")]
    assert sorted(done.stdout.splitlines()) == sorted(expected)
    assert sorted(done.stderr.splitlines()) == ["one | oops", "three | oops", "two | oops"]


def test_the_first_code_that_is_not_zero_is_the_commands(trio):
    script = "case $OXYCTL_NODE in two) exit 3;; three) exit 4;; esac; read line || echo no input"
    done = trio.oxyctl("lab", "exec", "--all", "--format", "json", "--", "sh", "-c", script, code=3)
    found = json.loads(done.stdout)
    assert found["kind"] == "exec"
    assert [(item["node"], item["exit_code"], item["stdout"]) for item in found["items"]] == [
        ("one", 0, "no input\n"),
        ("two", 3, ""),
        ("three", 4, ""),
    ]
    trio.oxyctl("lab", "exec", "--all", "--", "no-such-program", code=127)


def test_they_run_at_the_same_time(trio):
    """Each waits for the two others."""
    place = trio.directory / "meet"
    place.mkdir()
    place.chmod(0o777)
    script = 'touch "$0/$OXYCTL_NODE"; until [ $(ls "$0" | wc -l) = 3 ]; do sleep 0.05; done'
    trio.oxyctl("lab", "exec", "--all", "--", "sh", "-c", script, place)


@pytest.mark.parametrize(
    ("selection", "nodes"),
    [(["role=client"], ["one", "two"]), (["role=client", "site=berlin"], ["one"]), (["site=berlin"], ["one"])],
    ids=str,
)
def test_labels_select_nodes_that_have_all_of_them(trio, selection, nodes):
    options = [word for label in selection for word in ("--label", label)]
    done = trio.oxyctl("lab", "exec", *options, "--", "hostname")
    assert sorted(done.stdout.splitlines()) == [f"{node} | {node}" for node in nodes]


def test_nothing_matched(trio):
    error = trio.oxyctl("lab", "exec", "--label", "role=server", "--", "true", code=4).stderr
    assert error == "error: no node of lab 'trio' has role=server\n"
    assert "NAME=VALUE" in trio.oxyctl("lab", "exec", "--label", "role", "--", "true", code=2).stderr


def test_a_signal_reaches_all_of_them(trio):
    script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with trio.start("lab", "exec", "--all", "--", "sh", "-c", script) as running:
        for _ in range(3):
            assert running.stdout.readline().endswith("| ready\n")
        running.send_signal(signal.SIGTERM)
        assert running.communicate(timeout=20)[0].count("got it") == 3
        assert running.returncode == 9


def test_a_killed_exec_leaves_no_program_anywhere(trio):
    with trio.start("lab", "exec", "--all", "--", "sh", "-c", "echo ready; exec sleep 602") as running:
        for _ in range(3):
            running.stdout.readline()
        running.kill()
    eventually(lambda: "sleep 602" not in " ".join(processes_of(trio.run).values()), "the programs are gone")


def test_environment_and_directory(trio):
    script = "echo $COLOUR $SIZE $OXYCTL_LAB; pwd"
    command = ["lab", "exec", "--env", "COLOUR=dark blue", "--env", "SIZE=", "--cwd", "/usr", "one", "--"]
    assert trio.oxyctl(*command, "sh", "-c", script).stdout == "dark blue trio\n/usr\n"
    assert trio.oxyctl("lab", "exec", "--cwd", "lib", "one", "--", "pwd", cwd="/usr").stdout in ("/usr/lib\n", "/lib\n")
    error = trio.oxyctl("lab", "exec", "--cwd", "/nowhere", "one", "--", "pwd", code=126).stderr
    assert "cannot run in /nowhere in node 'one': No such file or directory" in error
    assert "NAME=VALUE" in trio.oxyctl("lab", "exec", "--env", "COLOUR", "one", "--", "true", code=2).stderr


def test_an_interactive_program_has_the_whole_terminal(trio):
    script = "stty size; read line; echo got $line; trap 'echo interrupted; exit 5' INT; echo waiting; sleep 60 & wait"
    with Terminal(trio, "lab", "exec", "one", "--", "sh", "-c", script) as terminal:
        terminal.until("33 101")
        terminal.press("hello\n")
        terminal.until("got hello")
        terminal.until("waiting")
        terminal.press("\x03")
        terminal.until("interrupted")
        assert terminal.end() == 5


def test_ctrl_c_kills_a_program_that_does_not_mind(trio):
    with Terminal(trio, "lab", "exec", "one", "--", "sh", "-c", "echo ready; exec sleep 60") as terminal:
        terminal.until("ready")
        terminal.press("\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.seen


def test_a_new_window_size_is_seen(trio):
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    with Terminal(trio, "lab", "exec", "one", "--", "sh", "-c", script) as terminal:
        terminal.until("ready")
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 155, 0, 0))
        terminal.until("44 155")
        assert terminal.end() == 0


def test_ctrl_z_stops_both_and_they_go_on_together(trio):
    shell = "set -m; $OXYCTL lab exec one -- sh -c 'echo ready; read line; echo got $line'; echo stopped; fg; echo over"
    command = " ".join(trio.command()[len(trio.prefix) :])
    with Terminal(trio, OXYCTL=command, program=["bash", "-c", shell]) as terminal:
        terminal.until("ready")
        terminal.press("\x1a")
        terminal.until("stopped")
        terminal.press("on\n")
        terminal.until("got on")
        terminal.until("over")
        assert terminal.end() == 0


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh", "no-such-shell"])
def test_shell_says_where_one_is(trio, shell):
    if not os.path.exists(shell) and shell != "no-such-shell":
        pytest.skip(f"no {shell}")
    with Terminal(trio, "lab", "shell", "two", SHELL=shell) as terminal:
        terminal.until("(trio two)")
        terminal.press("hostname; echo is $((6 * 7)); exit 3\n")
        terminal.until("is 42")
        assert terminal.end() == 3
        assert "job control" not in terminal.seen


def test_shell_of_a_node_that_there_is_not(trio):
    assert "did you mean 'two'" in trio.oxyctl("lab", "shell", "tow", code=4).stderr
