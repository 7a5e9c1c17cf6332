"""The TLS contexts of an inspector: for clients one per leaf certificate, for origins one per tenant.

ALPN names belong to a context, and OpenSSL reads them when a handshake begins. They are set just before, so that one
context can offer whatever was agreed with each origin.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from _ssl import _SSLContext
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakSet

from proxy.session.facts import TLSFacts
from proxy.session.messages import LeafAnswer, TenantRules

MAX_CONTEXTS = 1_024  # for clients; 60 KB each
CLIENT_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: for leaves with EC keys; no CBC (RFC 9325 4.2)
HANDSHAKE, CERTIFICATE_REQUEST = 22, 13  # RFC 8446 5.1 and 4
# Treat a FIN without close_notify as the end of the peer's data; otherwise OpenSSL refuses to send after it.
HALF_CLOSED = ssl.OP_IGNORE_UNEXPECTED_EOF
MAX_SESSIONS = 8_192  # with origins, for resumption
MAX_ABANDONED = 4_096  # hosts and clients that abandoned the handshake

AfterRead = Callable[[ssl.SSLSocket], "AfterRead | None"]  # called after a read; returns what to call after the next

# alerts by which a failure is reported to the other side (RFC 8446 6)
ALERTS = {
    "handshake_failure": 40, "bad_certificate": 42, "certificate_revoked": 44, "certificate_expired": 45,
    "certificate_unknown": 46, "illegal_parameter": 47, "unknown_ca": 48, "access_denied": 49, "decode_error": 50,
    "protocol_version": 70, "internal_error": 80, "unrecognized_name": 112,
}  # fmt: skip
# by OpenSSL's X509_V_ERR_*: the alert that a client would have sent itself
CERTIFICATE_ALERTS = {
    9: "certificate_expired", 10: "certificate_expired", 18: "unknown_ca", 19: "unknown_ca", 20: "unknown_ca",
    21: "unknown_ca", 23: "certificate_revoked",
}  # fmt: skip


def alert(name: str) -> bytes:
    """A fatal alert in clear text, as sent before keys are agreed."""
    return b"\x15\x03\x03\x00\x02\x02" + bytes([ALERTS[name]])


class TenantTLS:
    """The contexts of one tenant."""

    def __init__(self, rules: TenantRules, key_log: str | None = None) -> None:
        """`key_log`: the path to which OpenSSL writes secrets."""
        self.rules, self._key_log = rules, key_log
        self._minimum = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[rules.minimum]
        # with the time at which to request a new leaf, Unix seconds
        self._clients: OrderedDict[tuple[str, bool], tuple[float, ssl.SSLContext]] = OrderedDict()
        self.certificate_requesters: WeakSet[ssl.SSLSocket] = WeakSet()  # origins that requested a client certificate
        self._origins: dict[bool, ssl.SSLContext] = {}
        self._context_without_callback: ssl.SSLContext | None = None  # for origins, after the handshake
        # sessions with origins, and the issuers of their certificates
        self._sessions: OrderedDict[tuple[str, str, int, bool], tuple[ssl.SSLSession, str | None]] = OrderedDict()
        self._abandoned: OrderedDict[tuple[str, str], int] = OrderedDict()  # consecutive abandoned handshakes

    def has_leaf(self, name: str, untrusted: bool) -> bool:
        """Whether `client_context` needs no new leaf."""
        found = self._clients.get((name, untrusted))
        return found is not None and time.time() < found[0]

    def add_leaf(self, name: str, untrusted: bool, leaf: LeafAnswer) -> None:
        """Add a leaf certificate. OSError (also ssl.SSLError): it is not valid."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | HALF_CLOSED
        context.set_ciphers(CLIENT_CIPHERS)
        if self._key_log is not None:
            context.keylog_filename = self._key_log
        load_chain(context, leaf.chain, leaf.key)
        self._clients[name, untrusted] = leaf.renew_at, context
        if len(self._clients) > MAX_CONTEXTS:
            self._clients.popitem(last=False)

    def client_context(self, name: str, untrusted: bool) -> ssl.SSLContext:
        """The context with the leaf certificate of this name, which must have been added before."""
        self._clients.move_to_end((name, untrusted))
        return self._clients[name, untrusted][1]

    def origin_context(self, verified: bool) -> ssl.SSLContext:
        """The context for origins."""
        context = self._origins.get(verified)
        if context is None:
            context = self._origins[verified] = self._make_origin(verified)
        return context

    def count_abandoned(self, name: str, client: str) -> int:
        """Count a handshake with this host that its client has abandoned. Returns the number of consecutive ones."""
        count = self._abandoned[name, client] = self._abandoned.pop((name, client), 0) + 1
        if len(self._abandoned) > MAX_ABANDONED:
            self._abandoned.popitem(last=False)
        return count

    def reset_abandoned(self, name: str, client: str) -> None:
        """Reset that count: the client has accepted this host's certificate."""
        self._abandoned.pop((name, client), None)

    def session(self, name: str, host: str, port: int, verified: bool) -> ssl.SSLSession | None:
        """A session to resume with this origin."""
        found = self._sessions.get((name, host, port, verified))
        return None if found is None else found[0]

    def issuer(self, sock: ssl.SSLSocket, name: str, host: str, port: int, verified: bool) -> str | None:
        """The issuer of this origin's certificate. Remembered for resumed sessions: asking OpenSSL again costs a tenth
        of a handshake."""
        found = self._sessions.get((name, host, port, verified)) if sock.session_reused else None
        if found is not None and found[0] is getattr(sock, "_session", None):  # the session passed to `wrap_socket`
            return found[1]
        return _issuer(sock.getpeercert())

    def session_saver(self, name: str, host: str, port: int, verified: bool, issuer: str | None = None) -> AfterRead:
        """A function that stores the session of a socket for resumption, once its tickets have arrived.

        A session that was resumed is not replaced: extracting its new ticket costs a tenth of a handshake. Reusing a
        ticket lets observers link connections, which the proxy's address does anyway. `issuer`: of the certificate.
        """

        def save_session(sock: ssl.SSLSocket) -> AfterRead | None:
            session = None if sock.session_reused else sock.session
            if session is not None and session.has_ticket | bool(session.id):
                self._sessions[name, host, port, verified] = session, issuer
                self._sessions.move_to_end((name, host, port, verified))
                if len(self._sessions) > MAX_SESSIONS:
                    self._sessions.popitem(last=False)
            return self._remove_callback

        return save_session

    def _remove_callback(self, sock: ssl.SSLSocket) -> None:
        """Switch off the message callback of this socket: it costs 4 us a record. Changing the context costs 19 us, so
        it is done only for sockets that are read a second time."""
        if self._context_without_callback is None:
            self._context_without_callback = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        sock.context = self._context_without_callback

    def _make_origin(self, verified: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = self._minimum
        context.options |= ssl.OP_NO_RENEGOTIATION | HALF_CLOSED
        if verified:
            if self.rules.system_trust:
                context.load_default_certs()
            if self.rules.roots:
                context.load_verify_locations(cadata=self.rules.roots)
            if self.rules.crl:
                with _in_memory(self.rules.crl.encode()) as path:  # `cadata` accepts certificates only
                    context.load_verify_locations(path)
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        else:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        set_message_callback(context, self._on_message)
        if self._key_log is not None:
            context.keylog_filename = self._key_log
        return context

    def _on_message(
        self, sock: Any, direction: str, version: int, content_type: int, message_type: int, data: bytes
    ) -> None:
        """Note a CertificateRequest."""
        if content_type == HANDSHAKE and message_type == CERTIFICATE_REQUEST and direction == "read":
            self.certificate_requesters.add(sock)


def set_message_callback(context: ssl.SSLContext, callback: Callable[..., None]) -> None:
    """Call `callback` for each TLS message, by OpenSSL's `SSL_CTX_set_msg_callback`.

    `ssl` offers this for debugging only, and converts the arguments to enumerations. The private attribute used here
    does not, which saves 60 us a handshake. On a Python without it, `callback` is never called.
    """
    attribute = getattr(_SSLContext, "_msg_callback", None)
    if attribute is not None:
        attribute.__set__(context, callback)


def set_alpn(context: ssl.SSLContext, names: Sequence[str]) -> None:
    """Set the ALPN names for the next handshake; none: no ALPN."""
    context.set_alpn_protocols([name for name in names if name])


def load_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Load a certificate chain and its key. OSError (also ssl.SSLError): they are not valid."""
    with _in_memory(chain + key) as path:
        context.load_cert_chain(path)


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """The path of an anonymous file for OpenSSL, which reads some data from files only."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _issuer(certificate: Mapping[str, Any] | None) -> str | None:
    """The issuer's common name, or its organisation."""
    names = {key: value for part in (certificate or {}).get("issuer", ()) for key, value in part}
    return names.get("commonName") or names.get("organizationName")


def facts_of(sock: ssl.SSLSocket, sni: str | None, *, is_verified: bool = True) -> TLSFacts:
    """The facts of an established TLS connection."""
    cipher = sock.cipher()
    return TLSFacts(
        version=sock.version() or "unknown",
        cipher=cipher[0] if cipher else "unknown",
        sni=sni,
        alpn=sock.selected_alpn_protocol(),
        is_resumed=bool(sock.session_reused),
        is_verified=is_verified,
    )
