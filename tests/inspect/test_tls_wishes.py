"""What tenants may wish of TLS: pinned hosts passed, untrusted origins, versions, client certificates, QUIC. All in the
proxy's own process (`inspectors: 0`), where sessions are read as they are in one of their own."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from proxy.control.schema import Rotation
from proxy.inspect.tls import load_chain
from tests.inspect.test_tls_sessions import exchange, issuer, reasons
from tests.inspect.world import ReadingStage, client_context, echo, flawed, speaking
from tests.netns import needs_root
from tests.running import ORIGIN, PATIENCE_S, staged, until

pytestmark = [pytest.mark.netns, needs_root]

ROOTS = "roots of the lab"
CONFIGURATION = """
node: edge
state: {directory}/state
inspectors: 0
tenants:
  acme:
    level: tls
    inspection: {{trust: [{directory}/roots.pem], system_trust: false, learn_pinned: true, pinned_s: 60}}
  globex:
    token: secret
    level: tls
    inspection:
      {{trust: [{directory}/roots.pem], system_trust: false, bad_certificate: untrusted, minimum: TLSv1.3,
        client_certificates: ignore, quic: pass, key_log: globex.keys}}
  initech: {{level: stream}}
onramps:
  - {{kind: connected, path: ramp.sock}}
timeouts: {{connect_s: 4, context_s: 2, sniff_s: 1, tls_s: 3, drain_s: 1}}
"""


class WishingStage(ReadingStage):
    def __init__(self, directory):
        super().__init__(directory, configuration=CONFIGURATION)

    def trust_of(self, tenant: str) -> str:
        return str(Path(self.directory, "state/ca", tenant, "certificate.pem"))


@pytest.fixture(scope="module")
def stage():
    with staged(WishingStage) as stage:
        yield stage


@pytest.fixture
def globex(stage):
    yield stage.laptop(tenant="globex")
    stage.after_test()


def test_the_proxy_s_own_process_reads_and_says_what_that_means(stage, laptop):
    port = stage.serve(echo, stage.server_context())
    with speaking(laptop, port, client_context(stage.trust_of("acme"))) as sock:
        assert issuer(sock).startswith("oxyctl CA of acme")
        assert exchange(sock, b"x") == b"x"
        (inspector,) = stage.status.inspectors
    assert inspector.pid == stage.process.pid
    assert "the proxy's own process" in inspector.shortfalls[0]


def test_a_host_whose_client_pins_its_certificate_is_passed_from_then_on(stage, laptop):
    port = stage.serve(echo, stage.server_context("pinned.lab"))
    (roots,) = Path(stage.directory).glob("roots.pem")
    pinning = client_context(str(roots))
    with pytest.raises(ssl.SSLCertVerificationError), speaking(laptop, port, pinning, "pinned.lab"):
        pass
    assert stage.record(port).close_reason == "client_tls_error"
    with speaking(laptop, port, pinning, "pinned.lab") as sock:
        assert issuer(sock) == ROOTS
        assert exchange(sock, b"x") == b"x"
    record = stage.record(port, 2)
    assert (record.tls.action, record.tls.sni, reasons(record)) == (
        "pass", "pinned.lab", ["the client pins certificates"],
    )  # fmt: skip
    other = stage.laptop()
    with speaking(other, port, client_context(stage.trust_of("acme")), "pinned.lab") as sock:
        assert issuer(sock).startswith("oxyctl CA of acme")  # nobody else is passed
    assert "with pinned.lab are not inspected for 60 s: the client pins certificates" in stage.log


def test_an_origin_that_asks_for_a_certificate_is_passed_to_the_client_that_has_it(stage, laptop):
    asking = stage.server_context("other.lab")
    asking.verify_mode = ssl.CERT_REQUIRED
    asking.load_verify_locations(f"{stage.directory}/roots.pem")
    port = stage.serve(echo, asking)
    owner = client_context(f"{stage.directory}/roots.pem")
    load_chain(owner, *flawed("client.lab", stage.roots))  # without extended key usage: good for clients too
    for count in (1, 2):  # found out, and then known
        with speaking(laptop, port, owner, "other.lab") as sock:
            assert issuer(sock) == ROOTS
            assert exchange(sock, b"x") == b"x"
        record = stage.record(port, count)
        assert (record.tls.action, record.tls.asks_certificate) == ("pass", count == 1)
        assert reasons(record) == ["the origin asks for a client's certificate"]


def test_or_the_origin_does_without_where_the_tenant_wants_to_read(stage, globex):
    asking = stage.server_context()
    asking.verify_mode = ssl.CERT_OPTIONAL
    asking.load_verify_locations(f"{stage.directory}/roots.pem")
    port = stage.serve(echo, asking)
    with speaking(globex, port, client_context(stage.trust_of("globex"))) as sock:
        assert issuer(sock).startswith("oxyctl CA of globex")
        assert exchange(sock, b"x") == b"x"
    record = stage.record(port)
    assert (record.tls.action, record.tls.asks_certificate) == ("terminate", True)


def test_an_origin_that_is_not_to_be_trusted_gets_a_leaf_that_is_not_either(stage, globex):
    port = stage.serve(echo, stage.flawed_context("wiki.lab", days=-1))
    with (
        pytest.raises(ssl.SSLCertVerificationError),
        speaking(globex, port, client_context(stage.trust_of("globex"))),
    ):
        pass
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    with speaking(globex, port, careless) as sock:
        assert exchange(sock, b"x") == b"x"
    record = stage.record(port, 2)
    assert (record.tls.action, record.tls.error) == ("terminate", "certificate has expired")


@pytest.mark.parametrize("side", ["client", "origin"])
def test_a_version_below_the_minimum_ends_the_session(stage, globex, side):
    server, client = stage.server_context(), client_context(stage.trust_of("globex"))
    (server if side == "origin" else client).maximum_version = ssl.TLSVersion.TLSv1_2
    port = stage.serve(echo, server)
    with pytest.raises(ssl.SSLError), speaking(globex, port, client):
        pass
    record = stage.record(port)
    assert record.close_reason == f"{side}_tls_error"
    assert record.tls.error


def dialled(laptop, version: int) -> socket.socket:
    """A UDP socket of the client's, connected to where QUIC is."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = laptop.run(socket.socket, family, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE_S)
    sock.connect((ORIGIN[version], 443))
    return sock


@pytest.mark.parametrize("version", [4, 6])
def test_quic_to_what_is_read_is_refused_at_once(stage, laptop, globex, version):
    origin = stage.listen(version, 443, kind=socket.SOCK_DGRAM)
    with dialled(laptop, version) as refused:
        refused.send(b"\xc0hello")
        with pytest.raises(ConnectionRefusedError):
            refused.recv(10)
    with dialled(globex, version) as passed:
        passed.send(b"\xc0hello")
        assert origin.recv(10) == b"\xc0hello"
    record = until(lambda: next(iter(stage.ended(dst_port=443, tenant="acme", dst=ORIGIN[version])), None))
    assert record.close_reason == "denied"
    assert [each.stage for each in record.decisions][-1] == "quic"
    assert stage.status.tenants["acme"].drops["denied"] >= 1


def test_tls_that_nobody_reads_is_in_the_record_all_the_same(stage):
    laptop = stage.laptop(tenant="initech")
    port = stage.serve(echo, stage.server_context(alpn=("h2",)))
    wanted = client_context(f"{stage.directory}/roots.pem", ("h2", "http/1.1"))
    raw = laptop.tcp(ORIGIN[4], port)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = wanted.wrap_bio(incoming, outgoing, server_hostname="wiki.lab")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in (hello[:1], hello[1:70], hello[70:]):  # as segments come
        raw.sendall(part)
    incoming.write(raw.recv(65_536))
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    raw.close()
    record = stage.record(port)
    assert (record.level, record.detected_protocol) == ("stream", "tls")
    assert (record.tls.sni, record.tls.alpn, record.tls.version) == ("wiki.lab", "h2,http/1.1", "TLSv1.3")
    assert record.tls.ja4.startswith("t13d")
    assert record.tls.action == "pass"
    stage.after_test()


def test_secrets_of_sessions_are_written_where_the_tenant_wants_them(stage, globex):
    port = stage.serve(echo, stage.server_context())
    with speaking(globex, port, client_context(stage.trust_of("globex"))) as sock:
        assert exchange(sock, b"x") == b"x"
    path = Path(stage.directory, "globex.keys")
    assert path.stat().st_mode & 0o777 == 0o600
    lines = until(lambda: len(found := path.read_text().splitlines()) >= 8 and found)
    assert {line.split()[0] for line in lines} >= {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"}
    assert len({line.split()[1] for line in lines}) >= 2  # of the client's session, and of the origin's
    assert stage.status.key_logs == {"globex": str(path)}


def test_a_rotation_reaches_those_who_have_leaves_of_the_old_one(stage, globex):
    port = stage.serve(echo, stage.server_context())
    old = client_context(stage.trust_of("globex"))
    with speaking(globex, port, old) as sock:
        assert exchange(sock, b"x") == b"x"
        stage.control.rotate_authority(Rotation(tenant="globex"))
        assert exchange(sock, b"open sessions go on") == b"open sessions go on"
    with pytest.raises(ssl.SSLCertVerificationError), speaking(globex, port, old):
        pass
    with speaking(globex, port, client_context(stage.trust_of("globex"))) as sock:
        assert exchange(sock, b"x") == b"x"


def test_a_host_that_clients_leave_without_a_word_is_passed_after_the_third(stage, laptop):
    port = stage.serve(echo, stage.server_context("left.lab"))

    def leave():
        """As an application does that looks for a key of its own in the certificate, and does not find it."""
        hello = ssl.MemoryBIO()
        secured = client_context(stage.trust_of("acme")).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="left.lab")
        with contextlib.suppress(ssl.SSLWantReadError):
            secured.do_handshake()
        with laptop.tcp(ORIGIN[4], port, PATIENCE_S) as sock:
            sock.sendall(hello.read())
            assert sock.recv(1)

    def stay():
        with speaking(laptop, port, client_context(stage.trust_of("acme")), "left.lab") as sock:
            return issuer(sock)

    for count, times in ((1, 2), (4, 2)):  # who stays ends the row
        for index in range(times):
            leave()
            assert stage.record(port, count + index).close_reason == "client_tls_error"
        if count == 1:
            assert stay() != ROOTS
            stage.record(port, 3)
    leave()
    stage.record(port, 6)
    with speaking(laptop, port, client_context(f"{stage.directory}/roots.pem"), "left.lab") as sock:
        assert issuer(sock) == ROOTS
