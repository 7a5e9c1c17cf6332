"""The contexts towards origins: what is verified of a certificate."""

from __future__ import annotations

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from proxy.ca.authority import Authority
from proxy.inspect.tls import TenantTLS, load_chain
from proxy.session.messages import TenantRules

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def revocations(authority, *revoked, until=DAY):
    """The list of an authority, PEM."""
    certificate = authority.certificate
    builder = x509.CertificateRevocationListBuilder(certificate.subject, NOW - 2 * DAY, NOW + until)
    for leaf in revoked:
        serial = x509.load_pem_x509_certificate(leaf.chain).serial_number
        entry = x509.RevokedCertificateBuilder(serial, NOW - DAY).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def shake(context, leaf):
    """A handshake in memory; ssl.SSLCertVerificationError says why not."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(serving, leaf.chain, leaf.key)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there, server_hostname="wiki.lab")
    server = serving.wrap_bio(there, back, server_side=True)
    for end in (client, server, client):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass


def test_revocation_lists_are_binding():
    roots = Authority.create("roots of the lab")
    good, bad = roots.mint("wiki.lab"), roots.mint("wiki.lab")

    def origin_context(crl):
        rules = TenantRules(roots=roots.certificate_pem.decode(), system_trust=False, crl=crl)
        return TenantTLS(rules).origin_context(True)

    shake(origin_context(""), bad)
    shake(origin_context(revocations(roots, bad)), good)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shake(origin_context(revocations(roots, bad)), bad)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get certificate CRL"):
        shake(origin_context(revocations(Authority.create("another"), bad)), good)
    with pytest.raises(ssl.SSLCertVerificationError, match="CRL has expired"):
        shake(origin_context(revocations(roots, until=-DAY)), good)
