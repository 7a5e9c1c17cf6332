"""Authorities on disk: made once, kept secret, rotated, imported; leaves are kept up to a bound."""

from __future__ import annotations

import pytest

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
