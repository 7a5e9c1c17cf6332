"""The paths about SSH: what belongs to whom, names that lead elsewhere, watchers that do not keep up."""

from __future__ import annotations

import pytest

from proxy.control.client import ControlClient, ControlError
from proxy.control.recordings import RecordedSessions
from proxy.control.schema import HostKey, Recording
from proxy.control.ssh import MAX_QUEUED
from proxy.session.messages import TerminalOutput
from proxy.telemetry.recordings import recordings_of

ACME, GLOBEX = [("tenant", "acme")], [("tenant", "globex")]
KEY = HostKey(
    tenant="acme", public_key="ssh-ed25519 AAAA", fingerprint="SHA256:x", sshfp="4 2 00", user_ca="ssh-ed25519 B"
)


class FakeSSH:
    """The SSH of tenant acme: one session `f` whose channel `f.1` is open; recordings in a directory."""

    def __init__(self, directory):
        self.directory, self.ended, self.watches = directory, [], []

    def host_keys(self, tenant):
        return [KEY] if tenant in (None, "acme") else []

    def rotate(self, tenant):
        return KEY

    def end_channel(self, channel_id, tenant, why):
        is_there = channel_id in ("f", "f.1") and tenant in (None, "acme")
        self.ended += [channel_id] if is_there else []
        return is_there

    def watch_channel(self, channel_id, tenant, watch):
        if channel_id != "f.1" or tenant not in (None, "acme"):
            return None
        self.watches.append(watch)
        return lambda: self.watches.remove(watch)

    def recordings(self, identifier, tenant):
        return recordings_of(self.directory / "acme", identifier) if tenant in (None, "acme") else []

    def recording(self, name, tenant):
        path = self.directory / "acme" / name
        return path if tenant in (None, "acme") and path.is_file() else None


@pytest.fixture
def ssh(proxy, tmp_path):
    (tmp_path / "acme").mkdir()
    for name in "f.1.cast", "f.2.cast.age", "f.10.cast", "f2.1.cast", "f.1.cast.part", "f.x.cast":
        (tmp_path / "acme" / name).write_text(name)
    proxy.ssh = FakeSSH(tmp_path)
    return proxy.ssh


@pytest.fixture
def client(ssh, server, path):
    return ControlClient(path, timeout_s=20)


def test_a_proxy_that_reads_no_ssh_says_so(server, path, proxy):
    proxy.ssh = None
    client = ControlClient(path)
    for ask in (
        client.host_keys, lambda: client.rotate_host_key("acme"), lambda: client.end_ssh("f", ACME),
        lambda: client.recordings("f", ACME),
    ):  # fmt: skip
        with pytest.raises(ControlError, match="does not inspect SSH sessions") as caught:
            ask()
        assert caught.value.status == 404


def test_keys_are_of_tenants_whose_sessions_are_read(client):
    assert client.host_keys() == client.host_keys("acme") == [KEY]
    assert client.host_keys("globex") == []
    assert client.rotate_host_key("acme") == KEY
    with pytest.raises(ControlError, match="no tenant 'globex'"):
        client.rotate_host_key("globex")


@pytest.mark.parametrize("source", ["running", "gone"])
def test_recordings_of_a_flow_or_a_channel_in_their_order(client, ssh, source):
    asked = client if source == "running" else RecordedSessions(ssh.directory)
    assert [each.channel_id for each in asked.recordings("f", ACME)] == ["f.1", "f.2", "f.10"]
    [one] = asked.recordings("f.2", ACME)
    assert (one.name, one.tenant, one.is_encrypted, one.size) == ("f.2.cast.age", "acme", True, 12)
    assert asked.recording(one) == b"f.2.cast.age"
    assert asked.recordings("f", GLOBEX) == []
    for name in "../acme/f", "*", "", "f.1.cast", "[f].1":
        assert asked.recordings(name, ACME) == []


def test_a_recording_that_is_not_there_is_none_of_ours(client):
    for name in "f.9.cast", "../../etc/passwd":
        with pytest.raises(ControlError, match="no recording"):
            client.recording(Recording(name=name, tenant="acme", channel_id="", size=0))


def test_only_what_is_there_is_ended(client, ssh):
    client.end_ssh("f.1", ACME)
    for identifier, whose in (("f.1", GLOBEX), ("g", ACME)):
        with pytest.raises(ControlError, match="no live SSH session") as caught:
            client.end_ssh(identifier, whose)
        assert caught.value.status == 404
    assert ssh.ended == ["f.1"]


def test_a_terminal_is_watched_to_its_end(client, ssh, loop):
    with client.watch_ssh("f.1", ACME) as screens:
        loop.do(lambda: ssh.watches[0](TerminalOutput(1, "f.1", [(1.0, "o", "hello")], size=(80, 24))))
        first = next(screens)
        assert (first.events, first.size) == ([(1.0, "o", "hello")], (80, 24))
        loop.do(lambda: ssh.watches[0](TerminalOutput(1, "f.1", is_over=True)))
        assert [screen.is_over for screen in screens] == [True]
    with pytest.raises(ControlError, match="no live session"), client.watch_ssh("f.1", GLOBEX):
        pass


def test_a_watcher_that_does_not_keep_up_is_told_how_much_it_missed(client, ssh, loop):
    def flood():
        for _ in range(MAX_QUEUED + 50):
            ssh.watches[0](TerminalOutput(1, "f.1", [(1.0, "o", "xy")]))
        ssh.watches[0](TerminalOutput(1, "f.1", is_over=True))

    with client.watch_ssh("f.1", ACME) as screens:
        loop.do(flood)
        told = list(screens)
    shown = sum(len(screen.events) for screen in told)
    assert shown + sum(screen.lost for screen in told) // 2 == MAX_QUEUED + 50
    assert told[-1].is_over
