"""Authorities of tenants, and leaves as browsers want them."""

from __future__ import annotations

import datetime
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID

from proxy.ca.authority import Authority
from proxy.errors import ProxyError


@pytest.fixture(scope="module")
def authority():
    return Authority.create("tests")


def leaf_of(authority: Authority, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.mint(name).chain)


def test_a_leaf_has_what_browsers_ask_for(authority):
    leaf = leaf_of(authority, "wiki.lab")
    extension = leaf.extensions.get_extension_for_class
    assert extension(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == ["wiki.lab"]
    assert list(extension(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert extension(x509.KeyUsage).value.digital_signature
    assert not extension(x509.BasicConstraints).value.ca
    assert extension(x509.AuthorityKeyIdentifier)
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= datetime.timedelta(days=398)
    assert leaf.not_valid_before_utc < datetime.datetime.now(datetime.UTC)
    assert leaf.serial_number.bit_length() > 64


def test_a_name_that_is_too_long_for_a_common_name_stands_in_the_alternative_only(authority):
    name = "a" * 60 + ".example.lab"
    leaf = leaf_of(authority, name)
    assert not list(leaf.subject)
    alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert alternative.critical
    assert alternative.value.get_values_for_type(x509.DNSName) == [name]


@pytest.mark.parametrize("name", ["wiki.lab", "192.0.2.1", "2001:db8::1"])
def test_openssl_verifies_it(authority, tmp_path, name):
    (tmp_path / "ca.pem").write_bytes(authority.certificate_pem)
    (tmp_path / "leaf.pem").write_bytes(authority.mint(name).chain)
    kind = "-verify_ip" if name[0].isdigit() else "-verify_hostname"
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", kind, name, "-CAfile", "ca.pem", "leaf.pem"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, text=True).returncode == 0


def test_name_constraints_hold():
    limited = Authority.create("limited", ["lab", "192.0.2.0/24"])
    verdicts = {name: limited.permits(name) for name in ("a.lab", "lab", "alab", "a.example", "192.0.2.9", "10.0.0.1")}
    assert verdicts == {
        "a.lab": True, "lab": True, "alab": False, "a.example": False, "192.0.2.9": True, "10.0.0.1": False,
    }  # fmt: skip
    assert not Authority.create("domains only", ["lab"]).permits("192.0.2.9")
    assert not Authority.create("addresses only", ["192.0.2.0/24"]).permits("a.lab")


@pytest.mark.parametrize(
    ("permitted", "verdicts"),
    [
        (["lab", "192.0.2.0/24"], {"a.lab": True, "a.example": False, "192.0.2.9": True, "10.0.0.1": False}),
        (["lab"], {"a.lab": True, "192.0.2.9": False, "2001:db8::1": False}),
        (["192.0.2.0/24"], {"192.0.2.9": True, "a.lab": False, "example": False}),
    ],
)
def test_clients_hold_it_to_its_name_constraints(tmp_path, permitted, verdicts):
    limited = Authority.create("limited", permitted)
    (tmp_path / "ca.pem").write_bytes(limited.certificate_pem)
    for name, is_good in verdicts.items():
        (tmp_path / "leaf.pem").write_bytes(limited.mint(name).chain)
        done = subprocess.run(["openssl", "verify", "-CAfile", "ca.pem", "leaf.pem"], cwd=tmp_path, capture_output=True)
        assert (done.returncode == 0) == is_good, name


def test_one_that_was_written_is_read_again_in_either_order(authority):
    for text in (authority.key_pem + authority.chain_pem, authority.chain_pem + authority.key_pem):
        assert Authority.load(text, text).fingerprint == authority.fingerprint


def test_pkcs12_with_a_password(authority):
    key = serialization.load_pem_private_key(authority.key_pem, None)
    secret = serialization.BestAvailableEncryption(b"geheim")
    data = pkcs12.serialize_key_and_certificates(b"ca", key, authority.certificate, None, secret)
    assert Authority.load_pkcs12(data, "geheim").fingerprint == authority.fingerprint
    with pytest.raises(ProxyError, match="PKCS#12"):
        Authority.load_pkcs12(data, "falsch")


def test_what_cannot_sign_says_why(authority):
    other = Authority.create("other")
    leaf = authority.mint("wiki.lab")
    with pytest.raises(ProxyError, match="not that of the certificate"):
        Authority.load(authority.chain_pem, other.key_pem)
    with pytest.raises(ProxyError, match="is not a CA"):
        Authority.load(leaf.chain, leaf.key)
    with pytest.raises(ProxyError, match="no PEM certificate"):
        Authority.load(b"nothing", other.key_pem)
    with pytest.raises(ProxyError, match="cannot be read"):
        Authority.load(authority.chain_pem, b"nothing")
