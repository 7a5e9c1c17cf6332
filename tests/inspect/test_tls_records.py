"""TLS contexts of an inspector: whoever watches handshakes is not told of every record after them."""

from __future__ import annotations

import socket
import ssl
import threading

from proxy.ca.authority import Authority
from proxy.inspect import handshakes
from proxy.inspect.tls import TenantTLS
from proxy.session.messages import LeafAnswer, TenantRules


class Watching(TenantTLS):
    """Counts what it hears of."""

    heard = 0

    def _on_message(self, sock, direction, version, content_type, message_type, data):
        self.heard += 1
        super()._on_message(sock, direction, version, content_type, message_type, data)


ORIGIN = "web.lab", "192.0.2.1", 443, True


def made():
    root = Authority.create("a root")
    leaf = root.mint("web.lab")
    tls = Watching(TenantRules(roots=root.certificate_pem.decode(), system_trust=False))
    tls.add_leaf("web.lab", False, LeafAnswer(1, leaf.chain, leaf.key))
    return tls


def connected(tls=None):
    tls = tls or made()
    near, far = socket.socketpair()
    origin = handshakes.wrap_client(tls, far, "web.lab", False)
    ours = handshakes.wrap_origin(tls, near, "web.lab", ("192.0.2.1", 443), [], True)
    shaking = threading.Thread(target=origin.do_handshake)
    shaking.start()
    ours.do_handshake()
    shaking.join()
    return tls, ours, origin


def test_the_message_callback_is_removed_after_the_second_read():
    tls, ours, origin = connected()
    with ours, origin:
        after_read = tls.session_saver("web.lab", "192.0.2.1", 443, True)
        for _ in range(2):
            origin.send(b"an answer")
            assert ours.recv(100) == b"an answer"
            after_read = after_read(ours)
        assert after_read is None
        heard = tls.heard
        assert heard
        for _ in range(3):
            ours.send(b"a request")
            assert origin.recv(100) == b"a request"
            origin.send(b"an answer")
            assert ours.recv(100) == b"an answer"
        assert tls.heard == heard
        assert ours.getpeercert()
        assert isinstance(tls.session("web.lab", "192.0.2.1", 443, True), ssl.SSLSession)


def test_who_has_signed_is_remembered_with_the_session_that_is_resumed():
    tls, ours, origin = connected()
    with ours, origin:
        assert tls.issuer(ours, *ORIGIN) == "a root"
        origin.send(b"an answer")
        assert ours.recv(100) == b"an answer"
        tls.session_saver(*ORIGIN, "as it was remembered")(ours)
    _, second, origin = connected(tls)
    with second, origin:
        assert second.session_reused
        assert tls.issuer(second, *ORIGIN) == "as it was remembered"
        tls._sessions[ORIGIN] = second.session, "of another session"
        assert tls.issuer(second, *ORIGIN) == "a root"
