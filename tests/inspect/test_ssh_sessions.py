"""SSH that ends in an inspector: OpenSSH's client and server with a real proxy between them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from proxy.ca.ssh import SSHKeys
from proxy.control.client import ControlError
from proxy.control.schema import Recording
from tests.inspect.ssh.world import SSHD, USER, make_key, sshd
from tests.inspect.world import CONFIGURATION, ReadingStage, echo, run
from tests.netns import needs_root
from tests.running import ORIGIN, staged, until

pytestmark = [pytest.mark.netns, needs_root, pytest.mark.skipif(SSHD is None, reason="there is no sshd")]


POLICY = """
rules:
- {name: ssh, phase: network, when: 'net.protocol == "tcp"', action: inspect, level: ssh}
- {name: no-reboots, phase: ssh, when: 'ssh.command contains "reboot"', action: block, reason: not today}
"""


class SSHStage(ReadingStage):
    def __init__(self, directory):
        self.place = Path(directory)
        self.keys = SSHKeys(self.place / "state")
        make_key(self.place / "origin_key")
        (self.place / "ca.pub").write_text(self.keys.user_ca("acme") + "\n")
        (self.place / "origins").write_text("* " + (self.place / "origin_key.pub").read_text())
        (self.place / "known_hosts").write_text(f"* {self.keys.host_public_key('acme')}\n")
        (self.place / "policy.yaml").write_text(POLICY)
        super().__init__(directory, level="stream", configuration=CONFIGURATION + "policies: [policy.yaml]\n",
                         more=", ssh: {trust: tunnel, known_hosts: origins, record: true}")  # fmt: skip


@pytest.fixture(scope="module")
def stage():
    with staged(SSHStage) as stage:
        yield stage


@pytest.fixture(scope="module")
def port(stage):
    start = functools.partial(stage.origin.run, subprocess.Popen)
    with sshd(stage.place, address=ORIGIN[4], start=start) as port:
        yield port


def ssh(stage, laptop, port, *words, options=(), **more):
    known = ["-o", f"UserKnownHostsFile={stage.place / 'known_hosts'}", "-o", "StrictHostKeyChecking=yes"]
    bare = ["-F", "none", "-o", "BatchMode=yes", "-o", "IdentityAgent=none", "-o", "GlobalKnownHostsFile=/dev/null"]
    return run(laptop, "ssh", *bare, *known, "-p", str(port), *options, f"{USER}@{ORIGIN[4]}", *words, **more)


def test_one_trusted_line_serves_and_the_origin_is_shown_a_certificate(stage, laptop, port):
    before = len(stage.ended(dst_port=port))
    done = ssh(stage, laptop, port, "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    record = stage.record(port, before + 1)
    assert (record.level, record.detected_protocol, record.close_reason) == ("ssh", "ssh", "client_closed")
    log = (stage.place / "sshd.log").read_text()
    assert f"Accepted publickey for {USER}" in log
    assert "ED25519-CERT" in log


def test_a_rule_blocks_a_command_in_a_session_that_a_rule_lifts(stage, laptop, port):
    before = len(stage.ended(dst_port=port))
    done = ssh(stage, laptop, port, "echo reboot")
    assert (done.stdout, done.stderr, done.returncode) == ("", "denied: not today\n", 126)
    record = stage.record(port, before + 1)
    assert record.level == "ssh"
    assert "ssh" in [each.rule for each in record.decisions]


def test_a_terminal_is_recorded_in_the_state_directory(stage, laptop, port):
    before = len(stage.ended(dst_port=port))
    done = ssh(stage, laptop, port, "tty; exit 3", options=["-tt"])
    assert done.returncode == 3
    record = stage.record(port, before + 1)
    [file] = until(lambda: list((stage.place / "state/recordings/acme").glob(f"{record.flow_id}.*.cast")))
    header, *events = map(json.loads, file.read_text().splitlines())
    assert header["version"] == 2
    assert "/dev/pts/" in "".join(data for _, code, data in events if code == "o")
    assert file.stat().st_mode & 0o777 == 0o600


@contextlib.contextmanager
def running(laptop, arguments, **options):
    """A program of the laptop's, killed at the end."""
    with laptop.run(subprocess.Popen, arguments, **options) as program:
        try:
            yield program
        finally:
            program.kill()


def test_an_inspector_that_is_killed_ends_the_session_with_its_name(stage, laptop, port):
    before = len(stage.ended(dst_port=port))
    arguments = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={stage.place / 'known_hosts'}", "-o", "BatchMode=yes",
                 "-p", str(port), f"{USER}@{ORIGIN[4]}", "echo here; sleep 60"]  # fmt: skip
    with running(laptop, arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        assert client.stdout.readline() == b"here\n"
        [pid] = stage.inspector_pids()
        os.kill(pid, signal.SIGKILL)
        assert client.wait(20) == 255
    assert stage.record(port, before + 1).close_reason == "inspector_died"


def test_what_is_no_ssh_is_read_or_passed_as_before(stage, laptop, port):
    other = stage.serve(echo)
    with laptop.tcp(ORIGIN[4], other, 10) as sock:
        sock.sendall(b"\x00hello")
        assert sock.recv(100) == b"\x00hello"
    assert stage.record(other).level == "stream"


WHOSE = [("tenant", "acme")]


@contextlib.contextmanager
def typing_at(stage, laptop, port, command="echo ready; cat", **more):
    """A client with a terminal, once it is there."""
    arguments = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={stage.place / 'known_hosts'}", "-o", "BatchMode=yes",
                 "-tt", "-p", str(port), f"{USER}@{ORIGIN[4]}", command]  # fmt: skip
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(laptop, arguments, **pipes, **more) as client:
        assert client.stdout.readline() == b"ready\r\n"
        yield client


def open_channel(stage, port):
    [channel] = until(lambda: stage.control.children("channels", [*WHOSE, ("scope", "live")]).items)
    return channel


def test_a_live_terminal_is_listed_watched_and_ended_with_words(stage, laptop, port):
    with typing_at(stage, laptop, port) as client:
        channel = open_channel(stage, port)
        assert (channel.is_open, channel.kind, channel.command, channel.ssh_user) == (
            True,
            "exec",
            "echo ready; cat",
            USER,
        )
        with stage.control.watch_ssh(channel.channel_id, WHOSE) as screens:
            first = next(screens)
            assert (first.size, "".join(data for _, _, data in first.events)) == ((80, 24), "ready\r\n")
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            shown = ""
            while "hello\r\nhello" not in shown:
                shown += "".join(data for _, code, data in next(screens).events if code == "o")
            stage.control.end_ssh(channel.channel_id, WHOSE)
            assert [screen.is_over for screen in screens][-1]
        assert client.wait(20) == 126
        assert b"an administrator has ended it" in client.stderr.read()
    channels = [*WHOSE, ("id", channel.flow_id)]
    [past] = until(lambda: [each for each in stage.control.children("channels", channels).items if not each.is_open])
    assert (past.channel_id, past.recording) == (channel.channel_id, f"{channel.channel_id}.cast")
    with pytest.raises(ControlError, match="no live SSH session"):
        stage.control.end_ssh(channel.channel_id, WHOSE)


def test_a_session_is_ended_by_its_flow_and_is_no_other_tenants(stage, laptop, port):
    before = len(stage.ended(dst_port=port))
    with typing_at(stage, laptop, port) as client:
        flow = open_channel(stage, port).flow_id
        for whose in [("tenant", "globex")], [("tenant", "none")]:
            with pytest.raises(ControlError, match="no live SSH session"):
                stage.control.end_ssh(flow, whose)
            assert stage.control.recordings(flow, whose) == []
        stage.control.end_ssh(flow, WHOSE)
        assert client.wait(20) in (126, 255)
    assert stage.record(port, before + 1).close_reason in ("client_closed", "admin_killed")


def test_a_recording_is_fetched_by_its_flow_or_channel(stage, laptop, port):
    with typing_at(stage, laptop, port) as client:
        channel = open_channel(stage, port)
        for identifier in channel.flow_id, channel.channel_id:
            [found] = stage.control.recordings(identifier, WHOSE)
            assert (found.channel_id, found.tenant, found.is_encrypted) == (channel.channel_id, "acme", False)
        assert json.loads(stage.control.recording(found).splitlines()[0])["version"] == 2
        client.stdin.close()
    for name in "../secret.1.cast", "..%2f..%2fproxy.yaml", f"{channel.channel_id}", "":
        with pytest.raises(ControlError):
            stage.control.recording(Recording(name=name, tenant="acme", channel_id="", size=0))


def test_a_new_host_key_is_met_by_new_sessions(stage, laptop, port):
    old = stage.control.host_keys("acme")[0]
    assert (stage.place / "known_hosts").read_text().strip() == f"* {old.public_key}"
    new = stage.control.rotate_host_key("acme")
    assert (new.previous, new.user_ca) == (old.public_key, old.user_ca)
    assert ssh(stage, laptop, port, "true").returncode == 255
    (stage.place / "known_hosts").write_text(f"* {new.public_key}\n")
    assert ssh(stage, laptop, port, "true").returncode == 0
    shown = subprocess.run(["ssh-keygen", "-lf", "-"], input=new.public_key, capture_output=True, text=True).stdout
    assert new.fingerprint in shown
    with pytest.raises(ControlError, match="no tenant"):
        stage.control.rotate_host_key("globex")
