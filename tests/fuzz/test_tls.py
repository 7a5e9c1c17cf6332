"""Whatever is said instead of TLS: no exception, a session that ends with a name, and others that go on."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.client_hello import MAX_HELLO, Hello, Malformed, parse
from tests import hellos
from tests.fuzz.test_http import mutated
from tests.inspect.test_tls_sessions import exchange
from tests.inspect.world import ReadingStage, client_context, echo, speaking
from tests.netns import needs_root
from tests.running import ORIGIN, staged

CORPUS = [
    hellos.openssl("wiki.lab", ["h2", "http/1.1"]),
    hellos.records(hellos.chrome(b"wiki.lab")),
    hellos.records(hellos.chrome(b"wiki.lab"), 1),  # each byte in a record
    hellos.records(hellos.chrome(b"wiki.lab", grease=False), 100),
    hellos.records(hellos.chrome(b"wiki.lab", more=hellos.extension(51, bytes(1_220)))),  # a key share of ML-KEM
    hellos.records(hellos.chrome(b"wiki.lab", more=hellos.extension(0xFE0D, bytes(200)))),  # ECH
    hellos.records(hellos.chrome(b"wiki.lab", more=hellos.extension(41, bytes(300)))),  # a ticket to resume
    hellos.records(hellos.chrome(None)),
    hellos.records(hellos.chrome(b"wiki.lab", more=hellos.extension(21, bytes(40_000)))),  # padding
]


@given(st.sampled_from(CORPUS), st.integers(0, 2**32), st.data())
@settings(max_examples=40, deadline=None)
def test_a_hello_in_pieces_is_asked_for_until_it_is_there_and_never_raises(hello, seed, data):
    said = mutated(hello, seed)
    at, last = 0, None
    while at < len(said):
        at += data.draw(st.integers(1, max(1, len(said) - at)))
        found = parse(said[:at])
        if isinstance(found, int):
            assert at < found <= MAX_HELLO + 16_384 + 5  # always more than there is: nobody looks twice at the same
            continue
        assert isinstance(found, (Hello, Malformed))
        assert last is None or type(found) is type(last)
        last = found
        if isinstance(found, Hello):
            assert found.ja4.isascii()
            assert len(found.ja4) == 36
            assert parse(said) == found  # what follows changes nothing
            return


# In a proxy.

GOOD = CORPUS[0]
OVERSIZED = hellos.records(b"\x01" + hellos.vector(3, bytes(70_000)))
RELAYED = "client_closed", "origin_closed", "origin_reset"  # by whom is the origin's business
# what the client says, and why its session ends
FAULTY = ("client_tls_error", "client_closed")  # the latter where its FIN is seen before its fault
SAID = [
    (GOOD[:100], RELAYED),
    (OVERSIZED, RELAYED),
    (b"\x16\x03\x01\x00\x00" * 50, RELAYED),
    (b"\x80\x2e\x01\x03\x01" + bytes(60), RELAYED),  # SSLv2
    (b"\x15\x03\x01\x00\x02\x02\x28", RELAYED),  # an alert at first
    (GOOD + b"\x17\x03\x03\xff\xff" + bytes(1_000), FAULTY),
    (GOOD + GOOD, FAULTY),
    (CORPUS[4], FAULTY),  # a key share of zeros
]


@pytest.fixture(scope="module")
def stage():
    with staged(ReadingStage) as stage:
        yield stage


@pytest.mark.netns
@needs_root
def test_each_client_ends_its_own_session_only(stage):
    laptop = stage.laptop()
    good = stage.serve(echo, stage.server_context())
    with speaking(laptop, good, client_context(stage.client_trust)) as other:
        for said, reasons in SAID:
            port = stage.serve(echo, stage.server_context())
            with contextlib.closing(laptop.tcp(ORIGIN[4], port, 15)) as raw, contextlib.suppress(OSError):
                raw.sendall(said)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65_536):
                    pass
            record = stage.record(port)
            assert record.close_reason in reasons, (said[:40], record)
            assert exchange(other, b"still here") == b"still here"
    stage.after_test()


@pytest.mark.netns
@needs_root
def test_a_chain_of_100_certificates(stage):
    laptop = stage.laptop()
    port = stage.serve(echo, chained(stage, 100))
    with pytest.raises(ssl.SSLError), speaking(laptop, port, client_context(stage.client_trust)):
        pass
    record = stage.record(port)
    assert (record.close_reason, bool(record.tls.error)) == ("origin_tls_error", True)
    stage.after_test()


def chained(stage, length: int) -> ssl.SSLContext:
    """A server's, whose certificate is so many below the root that the proxy trusts."""
    roots = stage.roots
    signer = serialization.load_pem_private_key(roots.key_pem, None)
    template = x509.load_pem_x509_certificate(roots.mint("wiki.lab").chain)
    issuer, chain = roots.certificate.subject, []
    for number in range(length):
        is_last = number == length - 1
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"number {number}")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(template.not_valid_before_utc)
            .not_valid_after(template.not_valid_after_utc)
            .add_extension(x509.BasicConstraints(ca=not is_last, path_length=None), critical=True)
        )
        if is_last:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("wiki.lab")]), critical=False)
        chain.insert(0, builder.sign(signer, hashes.SHA256()))
        issuer, signer = subject, key
    files = [f"{stage.directory}/chain-{length}.{kind}" for kind in ("pem", "key")]
    plain = serialization.NoEncryption()
    contents = (
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain),
        signer.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
    )
    for path, content in zip(files, contents, strict=True):
        with open(path, "wb") as file:
            file.write(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context
