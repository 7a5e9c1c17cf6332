"""OpenSSH's own client and server with a bridge between them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from proxy.verdict import Decision, Ruling, deny
from tests.inspect.ssh.world import SSHD, USER, wait_until

pytestmark = pytest.mark.skipif(SSHD is None, reason="there is no sshd")

BIG = 20_000_000


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_output_errors_and_exit_status_are_kept_apart(world, code):
    done = world.ssh(f"echo out; echo err >&2; exit {code}")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", code)
    [record] = world.channels()
    assert (record.kind, record.exit_status, record.verdict) == ("exec", code, "allowed")
    assert (record.origin_bytes, record.stderr_bytes) == (4, 4)
    assert record.identity == "alice@acme.example"
    assert record.server_version.startswith("SSH-2.0-OpenSSH") or "OpenSSH" in record.server_version


def test_much_arrives_whole_in_both_directions(world, tmp_path):
    noise = (
        f"{sys.executable} -c 'import hashlib, sys; sys.stdout.buffer.write(hashlib.shake_128(b\"x\").digest({BIG}))'"
    )
    expected = hashlib.shake_128(b"x").digest(BIG)
    assert world.ssh(noise, text=False).stdout == expected
    done = world.ssh("sha256sum", text=False, input=expected)
    assert done.stdout.split()[0].decode() == hashlib.sha256(expected).hexdigest()
    assert [record.client_bytes for record in world.channels(2)] == [0, BIG]


def test_sftp_and_both_protocols_of_scp_move_files(world, tmp_path):
    world.change(hash_files=True)
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "up.bin").write_bytes(b"\x00\xff" * 300_000)
    target = f"{USER}@127.0.0.1:{there}"
    for flags, name in ([], "sftp.bin"), (["-O"], "scp.bin"):
        scp(world, *flags, str(tmp_path / "up.bin"), f"{target}/{name}")
        scp(world, *flags, f"{target}/{name}", str(tmp_path / f"down-{name}"))
        assert (tmp_path / f"down-{name}").read_bytes() == (tmp_path / "up.bin").read_bytes()
    world.channels(4)
    digest = hashlib.sha256((tmp_path / "up.bin").read_bytes()).hexdigest()
    assert [(each.operation, each.path, each.bytes, each.sha256) for each in world.files()] == [
        (operation, f"{there}/{name}", 600_000, digest)
        for name in ("sftp.bin", "scp.bin")
        for operation in ("write", "read")
    ]


def test_where_files_may_only_be_read_nothing_is_written(world, tmp_path):
    world.change(file_transfer="read-only")
    (tmp_path / "kept").write_text("kept")
    target = f"{USER}@127.0.0.1:{tmp_path}"
    for flags in [], ["-O"]:
        scp(world, *flags, f"{target}/kept", str(tmp_path / "fetched"))
        assert (tmp_path / "fetched").read_text() == "kept"
        refused = scp(world, *flags, str(tmp_path / "fetched"), f"{target}/new", check=False)
        assert refused.returncode != 0
    batch = f"rm {tmp_path}/kept\nrename {tmp_path}/kept {tmp_path}/x\nmkdir {tmp_path}/d\nls {tmp_path}\n"
    done = sftp(world, "".join(f"-{line}\n" for line in batch.splitlines()))
    assert "kept" in done.stdout
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "d").exists()
    assert (tmp_path / "kept").exists()
    refused = {(each.operation, each.refused) for each in world.files() if each.refused}
    assert refused == {("write", True), ("remove", True), ("rename", True), ("mkdir", True)}


def test_a_terminal_is_passed_on_and_recorded_without_what_is_typed_unseen(world):
    world.change(record=True, record_input=True)
    script = "stty -echo; printf secret:; read x; stty echo; printf shown:; read y; echo got $x $y | tr a-z A-Z; exit 3"
    arguments = ["ssh", *world.client_options(), "-tt", "-p", str(world.port), "127.0.0.1", script]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as ssh:
        shown = b""
        for prompt, answer in (b"secret:", b"hunter2\n"), (b"shown:", b"hello\n"):
            while not shown.endswith(prompt):
                more = ssh.stdout.read(1)
                assert more, shown
                shown += more
            ssh.stdin.write(answer)
            ssh.stdin.flush()
        shown += ssh.stdout.read()
    assert ssh.returncode == 3
    assert b"GOT HUNTER2 HELLO" in shown
    [record] = world.channels()
    assert record.terminal is not None
    lines = (world.place / record.recording).read_text().splitlines()
    assert json.loads(lines[0])["version"] == 2
    events = [json.loads(line) for line in lines[1:]]
    assert "".join(data for _, code, data in events if code == "o").encode() == shown
    typed = "".join(data for _, code, data in events if code == "i")
    assert "hello" in typed
    assert "hunter2" not in typed


def test_forwarding_is_refused_unless_it_is_switched_on(world, origin):
    banner = world.ssh(options=["-W", f"127.0.0.1:{origin}"], text=False)
    assert banner.returncode != 0
    assert b"port forwarding is off" in banner.stderr
    world.change(local_forwarding=True)
    assert world.ssh(options=["-W", f"127.0.0.1:{origin}"], input=b"x\r\n", text=False).stdout.startswith(b"SSH-2.0-")
    denied, allowed = world.channels(2)
    assert (denied.verdict, allowed.verdict) == ("denied", "allowed")
    assert (allowed.forward_host, allowed.forward_port) == ("127.0.0.1", origin)


def test_policy_denies_a_command_with_words_that_the_user_reads(world):
    said = Ruling(deny("no deletions"), [Decision("ssh", "acme", "deny", rule="no rm", reason="no deletions")])
    world.judge = lambda facts: said if facts["ssh.command"].startswith("rm ") else None
    done = world.ssh("rm -rf /nothing")
    assert (done.returncode, done.stderr.strip()) == (126, "denied: no deletions")
    assert world.ssh("true").returncode == 0
    assert [each.verdict for each in world.channels(2)] == ["denied", "allowed"]
    assert world.records[0].decisions[0].rule == "no rm"


def test_hooks_are_asked_about_channels_and_commands(world):
    world.hooks = {"ssh_channel": lambda request: None, "ssh_exec": lambda request: f"not {request.command}"}
    assert "denied: not id" in world.ssh("id").stderr
    assert [hook for hook, _ in world.asked] == ["ssh_channel", "ssh_exec"]


def test_a_hook_that_objects_to_a_login_ends_it_with_its_words(world):
    world.hooks = {"ssh_auth": lambda login: deny(f"{login.username} is on holiday")}
    done = world.ssh("true")
    assert done.returncode == 255
    assert f"denied: {USER} is on holiday" in done.stderr
    wait_until(lambda: world.outcomes)
    assert world.outcomes[0].reason == "denied"


def test_an_origin_with_another_host_key_is_refused_and_the_user_reads_why(world, place):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", world.place / f"other{world.port}"], check=True
    )
    other = (world.place / f"other{world.port}.pub").read_text()
    world.change(known_hosts=f"[127.0.0.1]:{world.origin_port} {other}")
    done = world.ssh("true")
    assert done.returncode == 255
    assert "the host key of 127.0.0.1" in done.stderr
    assert "has changed" in done.stderr
    world.change(known_hosts="")
    assert "is not known" in world.ssh("true").stderr


def test_who_has_no_proof_is_not_let_in_and_who_has_is(world, tmp_path):
    keys = {}
    for name in "alice", "mallory":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
        keys[name] = " ".join((tmp_path / f"{name}.pub").read_text().split()[:2])
    world.change(trust_tunnel=False, keys={"alice@acme.example": [keys["alice"]], "mallory": [keys["mallory"]]})
    for name, code in ("alice", 0), ("mallory", 255):  # the tunnel is alice's
        done = world.ssh("true", options=["-i", str(tmp_path / name), "-o", "IdentitiesOnly=yes"])
        assert done.returncode == code, done.stderr
    [record] = world.channels()
    assert (record.identity, record.auth_method) == ("alice@acme.example", "publickey")


def test_a_certificate_of_the_tenants_user_ca_lets_in(world, tmp_path):
    key = tmp_path / "key"
    for name in "key", "ca":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    subprocess.run(["ssh-keygen", "-q", "-s", tmp_path / "ca", "-I", "alice", "-n", USER, f"{key}.pub"], check=True)
    ca = " ".join((tmp_path / "ca.pub").read_text().split()[:2])
    world.change(trust_tunnel=False, user_cas=[ca])
    login = lambda: world.ssh("true", options=["-i", str(key), "-o", "IdentitiesOnly=yes"]).returncode  # noqa: E731
    assert login() == 0
    assert world.channels()[0].auth_method == "certificate"
    world.user = "bob@acme.example"
    assert login() == 255


def scp(world, *arguments, check=True):
    done = subprocess.run(["scp", *world.client_options(), "-P", str(world.port), *arguments], capture_output=True,
                          text=True, timeout=20)  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done


def sftp(world, batch):
    command = ["sftp", *world.client_options(), "-P", str(world.port), "-b", "-", "127.0.0.1"]
    return subprocess.run(command, input=batch, capture_output=True, text=True, timeout=20)
