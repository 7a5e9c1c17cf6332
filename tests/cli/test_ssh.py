"""`oxyctl ssh`: host keys, the channels of sessions, watching and ending them."""

from __future__ import annotations

import json
import threading

import pytest

from proxy.control.schema import Decision
from proxy.session.messages import TerminalOutput
from tests.children import FLOW, make_channel
from tests.control.test_ssh import KEY, FakeSSH
from tests.inspect.ssh.world import wait_until

ACME = ("--tenant", "acme")


@pytest.fixture
def ssh(oxyctl, server, path, proxy, tmp_path):
    """Run `oxyctl ssh COMMAND` against the made-up proxy, which has these channels."""
    proxy.ssh = FakeSSH(tmp_path)
    proxy.children = [
        make_channel(
            3,
            command=None,
            kind="direct-tcpip",
            forward_host="db",
            forward_port=5432,
            forward_protocol="tls",
            verdict="denied",
            decisions=[Decision("ssh", "acme", "allow", rule="forwards"), Decision("ssh_channel", "hook", "deny")],
        ),
        make_channel(2, command="uptime", exit_status=3),
        make_channel(1, channel_id="f.1", flow_id="f", terminal="xterm", kind="shell", is_open=True),
    ]  # the last one comes first
    return lambda *arguments: oxyctl("ssh", *arguments, "--control", path)


def test_a_host_key_for_people_for_files_and_for_programs(ssh):
    out = ssh("hostkey", "show", "--host", "*.corp").out
    for line in ("tenant acme: SHA256:x", "*.corp ssh-ed25519 AAAA", "*.corp IN SSHFP 4 2 00", "ssh-ed25519 B"):
        assert line in out
    (item,) = json.loads(ssh("hostkey", "show", *ACME, "--format", "json").out)["items"]
    assert (item["known_hosts"], item["sshfp"]) == ("* ssh-ed25519 AAAA", "* IN SSHFP 4 2 00")
    assert KEY.public_key in ssh("hostkey", "rotate", *ACME).out


def test_a_tenant_whose_sessions_are_not_read(ssh):
    result = ssh("hostkey", "show", "--tenant", "acmee")
    assert result.code == 4
    assert result.err.startswith("error: SSH sessions of tenant 'acmee' are not inspected; did you mean 'acme'?")
    assert ssh("hostkey", "rotate", "--tenant", "globex").err.startswith("error: ")


def test_the_channels_of_sessions(ssh):
    lines = ssh("sessions", *ACME).lines
    assert "open" in lines[1]
    assert "exit 3" in lines[2]
    assert lines[2].endswith("uptime")
    assert "denied" in lines[3]
    assert lines[3].endswith("db:5432 (tls)")
    assert "  hook  " in lines[3]
    items = json.loads(ssh("sessions", *ACME, "--format", "json").out)["items"]
    assert [each["channel_id"] for each in items] == ["f.1", f"{FLOW}.2", f"{FLOW}.3"]


def test_channels_of_a_tenant_that_nobody_knows(ssh):
    result = ssh("sessions", "--tenant", "acmee")
    assert (result.code, result.err) == (2, "error: --tenant: there is no tenant 'acmee'; did you mean 'acme'?\n")


def test_a_session_is_ended_once_it_is_there(ssh, proxy):
    result = ssh("sessions", "kill", "f.1", *ACME)
    assert (result.code, result.err) == (0, "f.1 was ended\n")
    assert proxy.ssh.ended == ["f.1"]
    missing = ssh("sessions", "kill", "g", *ACME)
    assert missing.code == 4
    assert "Traceback" not in missing.err


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_terminal_is_watched_by_its_flow_until_it_is_over(ssh, proxy, loop, output):
    def show():
        wait_until(lambda: proxy.ssh.watches, "somebody who watches")
        loop.do(lambda: proxy.ssh.watches[0](TerminalOutput(1, "f.1", [(1.0, "o", "hello")], size=(80, 24))))
        loop.do(lambda: proxy.ssh.watches[0](TerminalOutput(1, "f.1", is_over=True)))

    showing = threading.Thread(target=show)
    showing.start()
    try:
        result = ssh("sessions", "watch", "f", *ACME, "--format", output)
    finally:
        showing.join()
    assert result.code == 0
    assert result.err.endswith("f.1 has ended\n")
    if output == "json":
        assert json.loads(result.lines[0])["events"] == [[1.0, "o", "hello"]]
    else:
        assert result.out.startswith("hello")


def test_a_flow_without_a_terminal_is_not_watched(ssh):
    result = ssh("sessions", "watch", FLOW, *ACME)
    assert (result.code, result.err) == (4, f"error: flow {FLOW} has no open terminal\n")
