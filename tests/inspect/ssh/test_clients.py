"""What OpenSSH's client makes of one connection: hosts that it jumps by, `-W`, a master that others share."""

from __future__ import annotations

import subprocess

import pytest

from proxy.inspect.ssh.forwarding import ProtocolDetector
from proxy.verdict import Decision, Ruling, deny
from tests.inspect.ssh.world import SSHD, USER, World, known_line, make_key, sshd, wait_until

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")


@pytest.fixture(scope="module")
def behind(place):
    """A server that the proxy does not know: it lets in by a key of the user's own."""
    make_key(place / "own")
    there = place / "behind"
    there.mkdir()
    (there / "ca.pub").write_text("")
    with sshd(there, f"AuthorizedKeysFile {place / 'own.pub'}") as port:
        yield port


@pytest.fixture
def world(place, origin):
    with World(place, origin, known_hosts=known_line(place, origin), local_forwarding=True) as world:
        yield world


def jump(world, behind, *command):
    """`ssh -J`: by the proxy to the origin, and from there to the server behind it."""
    place = world.place
    config = place / "jump"
    config.write_text(
        f"Host hop\n Port {world.port}\n"
        f"Host behind\n Port {behind}\n IdentityFile {place / 'own'}\n"
        f"Host *\n HostName 127.0.0.1\n User {USER}\n BatchMode yes\n IdentityAgent none\n StrictHostKeyChecking yes\n"
        f" UserKnownHostsFile {place / 'known_hosts'} {place / 'known_behind'}\n GlobalKnownHostsFile /dev/null\n"
        " ConnectTimeout 20\n"
    )
    arguments = ["ssh", "-F", str(config), "-J", "hop", "behind", *command]
    return subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


def test_who_jumps_speaks_ssh_with_the_second_host_and_that_is_on_record(world, behind):
    (world.place / "known_behind").write_text(known_line(world.place / "behind", behind))
    done = jump(world, behind, "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    [record] = world.channels()
    assert (record.kind, record.forward_host, record.forward_port) == ("direct-tcpip", "127.0.0.1", behind)
    assert record.forward_protocol == "ssh"
    assert record.client_bytes > 1_000
    assert record.origin_bytes > 1_000


def test_the_second_host_shows_its_own_key_which_the_line_of_the_tenant_does_not_vouch_for(world, behind):
    (world.place / "known_behind").write_text("")
    done = jump(world, behind, "true")
    assert done.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr
    assert "Host key verification failed" in done.stderr


class Noted:
    protocol = None


@pytest.mark.parametrize(
    ("parts", "found", "more"),
    [
        ([b"SSH-2.0-x\r\n"], "ssh", False),
        ([b"S", b"S", b"H-2"], "ssh", False),
        ([b"\x16", b"\x03\x01"], "tls", False),
        ([b"GET / HT", b"TP/1.1\r\n"], "http", False),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], "h2", False),
        ([b"\x00\x00\x00\x08\x04\xd2\x16/"], None, False),
        ([b"S"], None, True),
        ([b"GET /" + b"x" * 5_000], None, False),
    ],
)
def test_how_a_forwarded_connection_begins_says_what_it_is(parts, found, more):
    noted = Noted()
    detector = ProtocolDetector(noted)
    answers = [detector.feed(part) for part in parts]
    assert (noted.protocol, answers[-1]) == (found, more)
    assert all(answers[:-1])


def test_policy_rules_where_one_may_jump_to(world, behind):
    (world.place / "known_behind").write_text(known_line(world.place / "behind", behind))
    said = Ruling(deny("not there"), [Decision("ssh", "acme", "deny", rule="no jumps", reason="not there")])
    world.judge = lambda facts: said if facts["ssh.forward.port"] == behind else None
    done = jump(world, behind, "true")
    assert done.returncode == 255
    assert "not there" in done.stderr
    [record] = world.channels()
    assert (record.verdict, record.forward_port) == ("denied", behind)
    world.change(local_forwarding=False)
    world.judge = lambda facts: None
    assert "port forwarding is off" in jump(world, behind, "true").stderr


def test_one_connection_is_a_master_that_others_share(world):
    control = ["-o", f"ControlPath={world.place / 'master'}"]
    assert world.ssh(options=[*control, "-M", "-f", "-N"], capture_output=False).returncode == 0
    for number in range(3):
        done = world.ssh(f"echo {number}; exit {number}", options=control)
        assert (done.stdout, done.returncode) == (f"{number}\n", number)
    assert world.ssh(options=[*control, "-O", "exit"]).returncode == 0
    wait_until(lambda: world.outcomes, "the end of the master")
    assert [(each.kind, each.exit_status) for each in world.channels(3)[:3]] == [("exec", n) for n in range(3)]
    assert {each.flow_id for each in world.channels(3)} == {world.channels(3)[0].flow_id}
    assert (len(world.outcomes), world.outcomes[0].reason) == (1, "client_closed")
