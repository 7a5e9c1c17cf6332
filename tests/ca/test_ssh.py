"""SSH keys of tenants, read by OpenSSH's own ssh-keygen."""

from __future__ import annotations

import stat
import subprocess

import pytest

from proxy.ca.ssh import SSHKeys, fingerprint, sshfp
from proxy.errors import ProxyError

NOW = 1_800_000_000


def keygen(*arguments, text=None):
    return subprocess.run(["ssh-keygen", *arguments], input=text, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def keys(tmp_path):
    return SSHKeys(tmp_path, clock=lambda: NOW)


def test_a_host_key_is_made_once_for_each_tenant_and_only_its_owner_reads_it(keys, tmp_path):
    first = keys.host_public_key("acme")
    assert first == SSHKeys(tmp_path).host_public_key("acme")
    assert first != keys.host_public_key("globex")
    path = tmp_path / "ssh" / "acme" / "ssh_host_ed25519_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert keygen("-y", "-f", str(path)).split()[:2] == first.split()


def test_fingerprint_and_sshfp_are_those_of_ssh_keygen(keys, tmp_path):
    public = keys.host_public_key("acme")
    (tmp_path / "key.pub").write_text(public + "\n")
    assert fingerprint(public) in keygen("-l", "-f", str(tmp_path / "key.pub"))
    assert f"SSHFP {sshfp(public)}" in keygen("-r", "any.example", "-f", str(tmp_path / "key.pub"))


def test_a_rotated_host_key_leaves_the_public_half_of_the_old_one(keys, tmp_path):
    old = keys.host_public_key("acme")
    assert keys.previous_host_key("acme") is None
    new = keys.rotate_host_key("acme")
    assert new != old
    assert SSHKeys(tmp_path).host_public_key("acme") == new
    assert keys.previous_host_key("acme") == old


def test_a_user_certificate_says_who_and_for_how_long(keys, tmp_path):
    key = tmp_path / "session"
    keygen("-q", "-t", "ed25519", "-N", "", "-f", str(key))
    signed = keys.sign("acme", key.with_suffix(".pub").read_text(), "alice via acme", ["alice", "admin"], 300)
    shown = keygen("-L", "-f", "-", text=signed)
    assert "ssh-ed25519-cert-v01@openssh.com user certificate" in shown
    assert 'Key ID: "alice via acme"' in shown
    principals = shown.split("Principals:")[1].split("Critical")[0].split()
    assert principals == ["alice", "admin"]
    assert fingerprint(keys.user_ca("acme")) in shown
    assert "permit-pty" in shown
    assert "X11" not in shown


@pytest.mark.parametrize("principals", [[], ["alice", ""], ["x"] * 257])
def test_a_certificate_that_is_good_for_everybody_is_never_made(keys, tmp_path, principals):
    key = tmp_path / "session"
    keygen("-q", "-t", "ed25519", "-N", "", "-f", str(key))
    with pytest.raises(ProxyError, match="principals"):
        keys.sign("acme", key.with_suffix(".pub").read_text(), "id", principals, 300)


@pytest.mark.parametrize(("text", "said"), [("nonsense", "cannot be read"), ("", "cannot be read")])
def test_a_damaged_key_file_is_named(keys, tmp_path, text, said):
    keys.host_public_key("acme")
    (tmp_path / "ssh" / "acme" / "ssh_host_ed25519_key").write_text(text)
    with pytest.raises(ProxyError, match=f"ssh_host_ed25519_key.*{said}"):
        keys.host_public_key("acme")


def test_only_keys_of_the_right_kind_are_signed(keys):
    with pytest.raises(ProxyError, match="public key cannot be read"):
        keys.sign("acme", "ssh-ed25519 AAAA", "id", ["alice"], 300)
