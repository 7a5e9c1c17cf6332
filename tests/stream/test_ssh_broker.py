"""What the proxy signs for an inspector: what it knows itself decides, whatever the question says."""

from __future__ import annotations

import base64
import struct
import subprocess
from types import SimpleNamespace

import pytest

from proxy.ca.ssh import SigningKey, SSHKeys
from proxy.session.messages import CertificateRequest, SignatureRequest
from proxy.settings.ssh import SSHInspection
from proxy.stream.ssh_broker import SSHBroker, SSHGrants

LOGINS = {"alice@acme.example": ["{name}", "deploy"], "*": ["guest"]}


def generate(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


class Asker:
    """An inspector with one session of alice's, which asks what it likes."""

    def __init__(self, place, *, user="alice@acme.example", is_asked=False, **settings):
        self.broker, self.grants, self.is_asked = SSHBroker(str(place)), SSHGrants(), is_asked
        self.rules = self.broker.rules("acme", SSHInspection(**settings))
        self.flow = SimpleNamespace(id="flow1", tenant=SimpleNamespace(name="acme"), carrier=SimpleNamespace(user=user))
        self.public = generate(place / "session")

    def certificate(self, user="alice", identity="alice@acme.example"):
        wanted = CertificateRequest(1, 1, self.public, user, identity)
        return self.broker.certificate(self.flow, self.grants, lambda: "192.0.2.7", wanted, is_asked=self.is_asked)

    def sign(self, key, data, algorithm="ssh-ed25519"):
        public = self.rules.host_key if key == "host" else self.rules.onward_key or ""
        wanted = SignatureRequest(1, 1, key, public, data, algorithm)
        return self.broker.sign(self.flow, self.grants, wanted, is_asked=self.is_asked)


def shown(certificate):
    return subprocess.run(["ssh-keygen", "-L", "-f", "-"], input=certificate, capture_output=True, text=True).stdout


def test_a_certificate_is_for_one_user_from_one_address_and_minutes(tmp_path):
    said = shown(Asker(tmp_path, certificate_s=120).certificate().certificate)
    assert said.split("Principals:")[1].split("Critical")[0].split() == ["alice"]
    assert "source-address 192.0.2.7/32" in said
    assert 'Key ID: "alice@acme.example by flow1"' in said
    assert "permit-port-forwarding" not in said


def test_a_forged_question_names_another_user(tmp_path):
    asker = Asker(tmp_path, logins=LOGINS)
    for user in "root", "guest", "", "al\nice", "../alice", "-oProxyCommand=x":
        assert asker.certificate(user).certificate is None
    assert asker.certificate("root").error == "'alice@acme.example' may not log in as 'root' at an origin"
    assert asker.certificate("deploy").certificate is not None


def test_a_forged_question_names_another_identity(tmp_path):
    asker = Asker(tmp_path, user="bob@acme.example", logins=LOGINS)
    assert asker.certificate("alice", "alice@acme.example").certificate is None
    assert asker.certificate("guest", "alice@acme.example").certificate is not None


def test_where_the_tunnel_names_nobody_the_proof_counts(tmp_path):
    asker = Asker(tmp_path, user=None, logins=LOGINS)
    assert asker.certificate("alice", "mallory").certificate is None
    assert asker.certificate("alice", "alice@acme.example").certificate is not None


def test_a_session_is_one_user_at_its_origin(tmp_path):
    asker = Asker(tmp_path)
    assert asker.certificate("alice").certificate is not None
    assert asker.certificate("root").error == "this session already logs in as 'alice'"


def test_whom_the_application_has_not_let_in_gets_nothing(tmp_path):
    asker = Asker(tmp_path, is_asked=True)
    assert asker.certificate("alice").error == "the application has not accepted 'alice'"
    asker.grants.approved.add("alice")
    assert asker.certificate("alice").certificate is not None


def test_another_tenant_has_no_ca_here(tmp_path):
    asker = Asker(tmp_path)
    asker.flow.tenant.name = "globex"
    assert asker.certificate().error == "this tenant's SSH sessions are not inspected"


def test_the_host_key_signs_exchange_hashes_and_nothing_else(tmp_path):
    asker = Asker(tmp_path)
    for data in b"", b"x" * 31, b"x" * 33, b"\x00" * 500:
        assert asker.sign("host", data).error == "not an exchange hash"
    signature = asker.sign("host", b"h" * 32).signature
    assert verifies(asker.rules.host_key, signature, b"h" * 32)
    assert "PRIVATE" not in repr(asker.rules)


def test_the_onward_key_signs_requests_to_be_let_in_as_who_one_may_be(tmp_path):
    generate(tmp_path / "onward")
    asker = Asker(tmp_path, onward="key", onward_key=str(tmp_path / "onward"), logins=LOGINS)
    blob = base64.b64decode(asker.rules.onward_key.split()[1])
    good = request("alice", blob)
    assert verifies(asker.rules.onward_key, asker.sign("onward", good).signature, good)
    forged = [request("root", blob), request("alice", blob, service=b"x"), request("alice", blob[:-1] + b"x"),
              good + b"x", good[4:], b"h" * 32, b""]  # fmt: skip
    for data in forged:
        assert asker.sign("onward", data).error is not None
    assert asker.certificate().certificate is None


def test_there_is_no_onward_key_unless_one_is_configured(tmp_path):
    assert Asker(tmp_path).sign("onward", b"").error == "the key does not exist"


@pytest.mark.parametrize(("kind", "algorithm"), [("ecdsa", "ecdsa-sha2-nistp256"), ("rsa", "rsa-sha2-512")])
def test_keys_of_other_kinds_sign_as_openssh_reads_it(tmp_path, kind, algorithm):
    import asyncssh

    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / "key"], check=True)
    key = SigningKey.load((tmp_path / "key").read_bytes())
    assert asyncssh.import_public_key(key.public).verify(b"data", key.sign(b"data", algorithm))
    with pytest.raises(Exception, match="makes no signatures"):
        key.sign(b"data", "ssh-rsa")


def test_a_session_goes_on_with_the_host_key_that_it_began_with(tmp_path):
    asker = Asker(tmp_path)
    asker.broker.keys.rotate_host_key("acme")
    renewed = asker.broker.rules("acme", SSHInspection())
    assert renewed.host_key != asker.rules.host_key
    assert verifies(asker.rules.host_key, asker.sign("host", b"h" * 32).signature, b"h" * 32)


def test_the_private_host_key_is_only_in_its_file(tmp_path):
    keys = SSHKeys(tmp_path)
    keys.host_public_key("acme")
    assert (tmp_path / "ssh/acme/ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600


def string(data):
    return struct.pack("!I", len(data)) + data


def request(user, blob, *, service=b"ssh-connection"):
    """A session identifier and a publickey request (RFC 4252 7)."""
    fields = [user.encode(), service, b"publickey"]
    named = b"\x01" + string(b"ssh-ed25519") + string(blob)
    return string(b"i" * 32) + b"\x32" + b"".join(map(string, fields)) + named


def verifies(public, signature, data):
    import asyncssh

    return asyncssh.import_public_key(public).verify(data, signature)
