"""Who is let in, by what, and as whom at the origin."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess

import asyncssh
import pytest

from proxy.ca.ssh import SigningKey, SSHKeys
from proxy.verdict import ALLOW, PROVED, deny
from tests.inspect.ssh.world import SSHD, USER, make_key, sshd, wait_until

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("logins")
    (place / "ca.pub").write_text(SSHKeys(place).user_ca("acme") + "\n")
    make_key(place / "alice")
    (place / "authorized").write_text((place / "alice.pub").read_text())
    return place


@pytest.fixture(scope="module")
def origin(place):
    with sshd(place, f"AuthorizedKeysFile {place / 'authorized'}") as port:
        yield port


@contextlib.contextmanager
def agent(place):
    """An agent with alice's key; gives its socket."""
    path = place / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "the agent")
        subprocess.run(["ssh-add", "-q", place / "alice"], env={"SSH_AUTH_SOCK": str(path)}, check=True)
        yield path
    finally:
        process.terminate()
        process.wait(20)


async def log_in(world, **options):
    """What `true` ends with, after a login by these options."""
    defaults = {"client_keys": [], "agent_path": None}
    async with asyncssh.connect("127.0.0.1", world.port, username=USER, known_hosts=None, config=[],
                                **{**defaults, **options}) as conn:  # fmt: skip
        return (await conn.run("true")).exit_status


class Answers(asyncssh.SSHClient):
    """Of keyboard-interactive."""

    given = ("123456",)

    def kbdint_auth_requested(self):
        return ""

    def kbdint_challenge_received(self, name, instructions, lang, prompts):
        assert prompts == [("Code: ", False)]
        return list(self.given)


def test_a_password_is_right_when_the_application_says_that_it_is_proved(world):
    world.change(trust_tunnel=False, methods=("password",))
    world.hooks = {"ssh_auth": lambda login: PROVED if login.responses == ("secret",) else None}
    assert asyncio.run(log_in(world, password="secret")) == 0
    [record] = world.channels()
    assert (record.identity, record.auth_method) == ("alice@acme.example", "password")
    for answer in None, ALLOW, deny("no"):
        world.hooks = {"ssh_auth": lambda login, answer=answer: answer}
        with pytest.raises(asyncssh.PermissionDenied):
            asyncio.run(log_in(world, password="secret"))


def test_answers_at_prompts_are_judged_in_the_same_way(world):
    world.change(trust_tunnel=False, methods=("keyboard-interactive",), prompts=("Code: ",))
    world.hooks = {"ssh_auth": lambda login: PROVED if login.responses == ("123456",) else None}
    assert asyncio.run(log_in(world, client_factory=Answers)) == 0
    assert world.channels()[0].auth_method == "keyboard-interactive"
    world.hooks = {}
    with pytest.raises(asyncssh.PermissionDenied):  # nobody judges
        asyncio.run(log_in(world, client_factory=Answers))


def test_secrets_are_tried_a_few_times_only(world):
    world.change(trust_tunnel=False, methods=("password",))
    world.hooks = {"ssh_auth": lambda login: None}

    class Guessing(asyncssh.SSHClient):
        tried = 0

        def password_auth_requested(self):
            Guessing.tried += 1
            return f"guess {self.tried}" if self.tried < 50 else None

    with pytest.raises(asyncssh.PermissionDenied, match="too many attempts"):
        asyncio.run(log_in(world, client_factory=Guessing))
    assert len(world.asked) == 6


def test_each_identity_has_its_user_names(world):
    world.change(logins={"alice@acme.example": ["deploy"], "*": [USER]})
    assert f"alice@acme.example may not be {USER} here" in world.ssh("true").stderr
    world.change(logins={"alice@acme.example": [USER]})
    assert world.ssh("true").returncode == 0


def test_a_key_of_the_proxys_is_shown_but_never_leaves_it(world, place):
    world.onward = SigningKey.load((place / "alice").read_bytes())
    world.change(onward="key", onward_key=world.onward.public)
    assert world.ssh("true").returncode == 0
    assert [kind for kind, _ in world.signed] == ["host", "onward"]
    assert world.channels()[0].principals == []


def test_the_clients_own_agent_proves_who_it_is(world, place):
    world.change(onward="agent")
    with agent(place) as path:
        forwarded = ["-A", "-o", f"IdentityAgent={path}"]
        assert world.ssh("echo in", options=forwarded).stdout == "in\n"
        assert "connect with ssh -A" in world.ssh("true").stderr


def test_the_agent_is_forwarded_to_the_origin_when_that_is_switched_on(world, place):
    with agent(place) as path:
        forwarded = ["-A", "-o", f"IdentityAgent={path}"]
        assert world.ssh("ssh-add -l", options=forwarded).returncode == 2  # no agent
        world.change(agent_forwarding=True)
        assert "ED25519" in world.ssh("ssh-add -l", options=forwarded).stdout
    assert "auth-agent" in {each.kind for each in world.channels(3)}


def test_a_host_key_that_dns_vouches_for_is_believed(world, place):
    world.change(known_hosts="", sshfp=True)
    assert "is not known" in world.ssh("true").stderr
    key = asyncssh.read_public_key(place / "origin_key.pub")
    world.digests = [__import__("hashlib").sha256(key.public_data).digest()]
    assert world.ssh("true").returncode == 0
    world.digests = [b"x" * 32]
    assert "has changed" in world.ssh("true").stderr


def test_a_host_certificate_is_believed_when_its_authority_is_known(world, place):
    make_key(place / "host_ca")
    subprocess.run(["ssh-keygen", "-q", "-s", place / "host_ca", "-I", "origin", "-h", "-n", "127.0.0.1",
                    place / "origin_key.pub"], check=True)  # fmt: skip
    with sshd(place, f"HostCertificate {place / 'origin_key-cert.pub'}") as port:
        world.origin_port = port
        world.change(known_hosts="@cert-authority * " + (place / "host_ca.pub").read_text())
        assert world.ssh("true").returncode == 0
        world.change(known_hosts="@cert-authority * " + (place / "alice.pub").read_text())
        assert "the host key of" in world.ssh("true").stderr
