"""Authorities on disk: made once, kept secret, rotated, imported; leaves are kept up to a bound."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from proxy.ca import store
from proxy.ca.authority import Authority
from proxy.ca.store import Authorities
from proxy.errors import ProxyError
from proxy.settings.inspection import ImportedAuthority, Inspection


def test_it_is_made_once_and_only_its_owner_reads_it(tmp_path):
    first = Authorities(tmp_path, {"acme": Inspection()}).of("acme")
    assert Authorities(tmp_path, {"acme": Inspection()}).of("acme").fingerprint == first.fingerprint
    (path,) = tmp_path.rglob("authority.pem")
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_tenant_has_its_own(tmp_path):
    authorities = Authorities(tmp_path, {"acme": Inspection(), "globex": Inspection()})
    assert authorities.of("acme").fingerprint != authorities.of("globex").fingerprint


def test_leaves_are_kept_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAX_LEAVES", 2)
    authorities = Authorities(tmp_path, {"acme": Inspection()})
    for name in ("a.lab", "b.lab", "a.lab", "c.lab", "a.lab"):
        authorities.leaf("acme", name)
    assert authorities.minted == 3
    authorities.leaf("acme", "b.lab")
    assert authorities.minted == 4


def test_a_leaf_for_an_origin_that_is_not_trusted_is_not_trusted_either(tmp_path):
    authorities = Authorities(tmp_path, {"acme": Inspection()})
    assert authorities.leaf("acme", "a.lab").chain != authorities.leaf("acme", "a.lab", untrusted=True).chain


def test_a_rotation_keeps_the_certificate_before_and_forgets_its_leaves(tmp_path):
    authorities = Authorities(tmp_path, {"acme": Inspection()})
    before, leaf = authorities.of("acme"), authorities.leaf("acme", "a.lab")
    assert authorities.previous("acme") == b""
    after = authorities.rotate("acme")
    assert after.fingerprint != before.fingerprint
    assert authorities.previous("acme") == before.chain_pem
    assert authorities.leaf("acme", "a.lab").chain != leaf.chain
    assert Authorities(tmp_path, {"acme": Inspection()}).of("acme").fingerprint == after.fingerprint


def test_a_rotation_with_an_overlap_survives_a_restart_and_takes_over_in_time(tmp_path, monkeypatch):
    authorities, changes = Authorities(tmp_path, {"acme": Inspection()}), []
    authorities.changed = lambda: changes.append(1)
    before, leaf = authorities.of("acme"), authorities.leaf("acme", "a.lab")
    after = authorities.rotate("acme", 3600.0)
    with pytest.raises(ProxyError, match="takes over at"):
        authorities.rotate("acme", 60.0)
    authorities.tick()
    assert authorities.leaf("acme", "a.lab") is leaf
    assert (tmp_path / "ca" / "acme" / "certificate.pem").read_bytes() == before.chain_pem + after.chain_pem
    again = Authorities(tmp_path, {"acme": Inspection()})
    told = again.describe("acme")
    assert (told.root.fingerprint, told.next.fingerprint) == (before.fingerprint, after.fingerprint)
    later = told.next_from + 1
    monkeypatch.setattr(store.time, "time", lambda: later)
    for each in (again, authorities):
        each.tick()
        assert each.of("acme").fingerprint == after.fingerprint
        assert each.describe("acme").previous.fingerprint == before.fingerprint
    assert changes == [1]
    assert authorities.leaf("acme", "a.lab").chain != leaf.chain
    assert not (tmp_path / "ca" / "acme" / "next.pem").exists()


def test_a_rotation_that_cannot_be_kept_waits_and_the_old_one_signs_on(tmp_path, monkeypatch, caplog):
    authorities = Authorities(tmp_path, {"acme": Inspection()})
    before = authorities.of("acme").fingerprint
    after = authorities.rotate("acme", 60.0).fingerprint
    later = authorities.describe("acme").next_from + 1
    monkeypatch.setattr(store.time, "time", lambda: later)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store, "write", full)
        authorities.tick()
    assert authorities.of("acme").fingerprint == before
    assert "No space left" in caplog.text
    authorities.tick()
    assert authorities.of("acme").fingerprint == before
    later += store.RETRY_S
    authorities.tick()
    assert authorities.of("acme").fingerprint == after


def test_pkcs12_with_the_password_in_a_file(tmp_path):
    own = Authority.create("own")
    key = serialization.load_pem_private_key(own.key_pem, None)
    protected = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "own.p12").write_bytes(
        pkcs12.serialize_key_and_certificates(None, key, own.certificate, None, protected)
    )
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "wrong").write_text("guess\n")

    def read(password):
        wished = ImportedAuthority(file=str(tmp_path / "own.p12"), password_file=str(tmp_path / password))
        return Authorities(tmp_path / "state", {"acme": Inspection(ca=wished)}).of("acme")

    assert read("password").fingerprint == own.fingerprint
    with pytest.raises(ProxyError, match=r"tenant 'acme': inspection\.ca: .*own\.p12: PKCS#12: "):
        read("wrong")
    with pytest.raises(ProxyError, match=r"missing: No such file"):
        read("missing")


def test_constraints_that_the_settings_do_not_say_are_logged(tmp_path, caplog):
    Authorities(tmp_path, {"acme": Inspection()}).of("acme")
    Authorities(tmp_path, {"acme": Inspection(permitted=[".lab", "10.0.0.0/8"])}).of("acme")
    assert "its CA may sign for anything" in caplog.text
    caplog.clear()
    constrained = Authorities(tmp_path, {"acme": Inspection(permitted=[".lab", "10.0.0.0/8"])})
    constrained.rotate("acme")
    caplog.clear()
    Authorities(tmp_path, {"acme": Inspection(permitted=["10.0.0.0/8", "lab"])}).of("acme")
    assert "its CA may sign" not in caplog.text


def test_one_that_is_imported_signs_and_is_not_rotated(tmp_path):
    own = Authority.create("own")
    file = tmp_path / "own.pem"
    file.write_bytes(own.chain_pem + own.key_pem)
    authorities = Authorities(tmp_path / "state", {"acme": Inspection(ca=ImportedAuthority(file=str(file)))})
    assert authorities.of("acme").fingerprint == own.fingerprint
    with pytest.raises(ProxyError, match="imported"):
        authorities.rotate("acme")
    assert (tmp_path / "state" / "ca" / "acme" / "certificate.pem").read_bytes() == own.chain_pem


def test_its_certificate_lies_beside_it_for_clients_and_follows_a_rotation(tmp_path):
    authorities = Authorities(tmp_path, {"acme": Inspection()})
    first = authorities.of("acme")
    path = tmp_path / "ca" / "acme" / "certificate.pem"
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (first.chain_pem, 0o644)
    after = authorities.rotate("acme")
    assert path.read_bytes() == after.chain_pem != first.chain_pem


def test_a_name_that_it_may_not_sign_for(tmp_path):
    authorities = Authorities(tmp_path, {"acme": Inspection(permitted=["lab"])})
    authorities.leaf("acme", "wiki.lab")
    with pytest.raises(ProxyError, match=r"may not sign for wiki\.example"):
        authorities.leaf("acme", "wiki.example")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"])
def test_a_file_that_is_damaged_is_named(tmp_path, content):
    Authorities(tmp_path, {"acme": Inspection()}).of("acme")
    next(tmp_path.rglob("authority.pem")).write_bytes(content)
    with pytest.raises(ProxyError, match="acme"):
        Authorities(tmp_path, {"acme": Inspection()}).of("acme")
