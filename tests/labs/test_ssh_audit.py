"""The lab of SSH sessions: its checks hold, sessions are listed, watched, ended, played again and exported."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from tests.labs.conftest import eventually

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("sshd", path="/usr/sbin:/usr/bin") is None, reason="there is no sshd"),
]

ACME = ("--tenant", "acme")


def channels(machine, *options):
    answer = machine.oxyctl("ssh", "sessions", *ACME, "--format", "json", *options).stdout
    return json.loads(answer)["items"]


def test_its_checks_hold_and_its_sessions_are_seen_and_played_again(machine):
    machine.oxyctl("lab", "up", "ssh-audit")
    machine.oxyctl("lab", "check", "ssh-audit")
    if machine.is_rootless:
        return  # what follows asks the proxy only
    shown_key = machine.oxyctl("ssh", "hostkey", "show", *ACME).stdout
    assert "* ssh-ed25519 AAAA" in shown_key
    assert "* IN SSHFP 4 2 " in shown_key

    found = channels(machine)
    assert {(each["user"], each.get("verdict", "allowed")) for each in found} >= {
        ("alice@acme.example", "denied"), ("bob@acme.example", "denied"), ("carol@acme.example", "allowed"),
    }  # fmt: skip
    denied = next(each for each in found if each.get("command") == "shutdown now")
    assert [each["rule"] for each in denied["decisions"] if "rule" in each][-1] == "no-shutdown"
    recorded = next(each for each in found if each.get("recording"))
    assert "/dev/pts/" in machine.oxyctl("flows", "replay", recorded["channel_id"], *ACME).stdout
    page = machine.directory / "page.html"
    machine.oxyctl("flows", "replay", recorded["flow_id"], *ACME, "--html", page)
    assert "AsciinemaPlayer.create" in page.read_text()

    watch_and_end(machine)


def watch_and_end(machine):
    """A live session, from its list to its end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with machine.start("lab", "exec", "alice", "--", "ssh", "-tt", "root@10.70.0.11", "cat", **pipes) as client:
        live = eventually(lambda: channels(machine, "--live"), "a channel is open")[0]
        assert (live["command"], live["is_open"]) == ("cat", True)
        with machine.start("ssh", "sessions", "watch", live["flow_id"], *ACME) as watcher:
            assert "watching" in watcher.stderr.readline()
            client.stdin.write("look at me\n")
            client.stdin.flush()
            assert watcher.stdout.readline().strip() == "look at me"
            machine.oxyctl("ssh", "sessions", "kill", live["channel_id"], *ACME)
            assert "has ended" in watcher.stderr.read()
            assert watcher.wait(20) == 0
        assert client.wait(20) == 126
        assert "an administrator has ended it" in client.stderr.read()
