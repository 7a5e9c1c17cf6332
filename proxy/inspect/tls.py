"""TLS contexts of one inspector: towards clients one for each leaf, towards origins one for each tenant.

ALPN is a property of a context, and read when a handshake begins: it is set just before, so that one context serves
whatever was agreed with the origin.
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

MAX_CONTEXTS = 1_024  # of clients: 60 KB each
CLIENT_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2: leaves have EC keys; none with CBC (RFC 9325 4.2)
HANDSHAKE, CERTIFICATE_REQUEST = 22, 13  # RFC 8446 5.1 and 4
# A FIN without close_notify ends what the far end sends; without this OpenSSL sends nothing more after it, either.
HALF_CLOSED = ssl.OP_IGNORE_UNEXPECTED_EOF
MAX_SESSIONS = 8_192  # that can be resumed with origins
MAX_LEFT = 4_096  # hosts whose clients left in the handshake

AfterRead = Callable[[ssl.SSLSocket], "AfterRead | None"]  # to be called after a read; what after the next, if anything

# How a failure is told to the other side: alerts of RFC 8446 6
ALERTS = {
    "handshake_failure": 40, "bad_certificate": 42, "certificate_revoked": 44, "certificate_expired": 45,
    "certificate_unknown": 46, "illegal_parameter": 47, "unknown_ca": 48, "access_denied": 49, "decode_error": 50,
    "protocol_version": 70, "internal_error": 80, "unrecognized_name": 112,
}  # fmt: skip
# OpenSSL's X509_V_ERR_*: the alert that a client would have sent itself
CERTIFICATE_ALERTS = {
    9: "certificate_expired", 10: "certificate_expired", 18: "unknown_ca", 19: "unknown_ca", 20: "unknown_ca",
    21: "unknown_ca", 23: "certificate_revoked",
}  # fmt: skip


def alert(name: str) -> bytes:
    """A fatal alert in the clear, as it may be sent before any key is agreed."""
    return b"\x15\x03\x03\x00\x02\x02" + bytes([ALERTS[name]])


class TenantTLS:
    """The contexts of one tenant."""

    def __init__(self, rules: TenantRules, key_log: str | None = None) -> None:
        """`key_log`: where secrets of sessions are written."""
        self.rules, self._key_log = rules, key_log
        self._minimum = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[rules.minimum]
        # and when to ask for another leaf, Unix seconds
        self._clients: OrderedDict[tuple[str, bool], tuple[float, ssl.SSLContext]] = OrderedDict()
        self.asked_by: WeakSet[ssl.SSLSocket] = WeakSet()  # origins that asked for a client's certificate
        self._origins: dict[bool, ssl.SSLContext] = {}
        self._quiet: ssl.SSLContext | None = None  # of origins whose handshake is over
        # with origins, and who has signed their certificates
        self._sessions: OrderedDict[tuple[str, str, int, bool], tuple[ssl.SSLSession, str | None]] = OrderedDict()
        self._left: OrderedDict[str, int] = OrderedDict()  # how often in a row clients left a host in the handshake

    def has(self, name: str, untrusted: bool) -> bool:
        """Whether `towards_client` needs no new leaf."""
        found = self._clients.get((name, untrusted))
        return found is not None and time.time() < found[0]

    def keep(self, name: str, untrusted: bool, leaf: LeafAnswer) -> None:
        """Remember a leaf; OSError (also ssl.SSLError) when it is none."""
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

    def towards_client(self, name: str, untrusted: bool) -> ssl.SSLContext:
        """The context that serves the leaf of this name, kept before."""
        self._clients.move_to_end((name, untrusted))
        return self._clients[name, untrusted][1]

    def towards_origin(self, verified: bool) -> ssl.SSLContext:
        """The context for origins."""
        context = self._origins.get(verified)
        if context is None:
            context = self._origins[verified] = self._make_origin(verified)
        return context

    def left(self, name: str) -> int:
        """How often in a row clients have left this host in the handshake, this time included."""
        count = self._left[name] = self._left.pop(name, 0) + 1
        if len(self._left) > MAX_LEFT:
            self._left.popitem(last=False)
        return count

    def stayed(self, name: str) -> None:
        """A client has accepted the certificate of this host."""
        self._left.pop(name, None)

    def session(self, name: str, host: str, port: int, verified: bool) -> ssl.SSLSession | None:
        """What can be resumed with this origin."""
        found = self._sessions.get((name, host, port, verified))
        return None if found is None else found[0]

    def issuer(self, sock: ssl.SSLSocket, name: str, host: str, port: int, verified: bool) -> str | None:
        """Who has signed the certificate of this origin. Of a session that was resumed that is known: to take it out of
        OpenSSL once more costs as much as a tenth of the handshake."""
        found = self._sessions.get((name, host, port, verified)) if sock.session_reused else None
        if found is not None and found[0] is getattr(sock, "_session", None):  # what `wrap_socket` was given
            return found[1]
        return _issuer(sock.getpeercert())

    def learner(self, name: str, host: str, port: int, verified: bool, issuer: str | None = None) -> AfterRead:
        """Remembers the session of a socket, once its tickets have come. `issuer`: of its certificate.

        One that was resumed goes on being used: to take its new ticket out of OpenSSL costs a tenth of a handshake, and
        what a ticket that is used again would tell those on the way, the proxy's address tells them as well.
        """

        def learn(sock: ssl.SSLSocket) -> AfterRead | None:
            session = None if sock.session_reused else sock.session
            if session is not None and session.has_ticket | bool(session.id):
                self._sessions[name, host, port, verified] = session, issuer
                self._sessions.move_to_end((name, host, port, verified))
                if len(self._sessions) > MAX_SESSIONS:
                    self._sessions.popitem(last=False)
            return self._hush

        return learn

    def _hush(self, sock: ssl.SSLSocket) -> None:
        """Let nobody hear of the messages of this socket any more: of each record there are two, 2 us each. To take
        another context costs 19 us, so only those do that are read a second time."""
        if self._quiet is None:
            self._quiet = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        sock.context = self._quiet

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
                with _in_memory(self.rules.crl.encode()) as path:  # `cadata` takes certificates only
                    context.load_verify_locations(path)
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        else:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        watch_handshakes(context, self._noticed)
        if self._key_log is not None:
            context.keylog_filename = self._key_log
        return context

    def _noticed(
        self, sock: Any, direction: str, version: int, content_type: int, message_type: int, data: bytes
    ) -> None:
        """A message of some handshake."""
        if content_type == HANDSHAKE and message_type == CERTIFICATE_REQUEST and direction == "read":
            self.asked_by.add(sock)


def watch_handshakes(context: ssl.SSLContext, noticed: Callable[..., None]) -> None:
    """Let `noticed` hear of each message of TLS: OpenSSL's `SSL_CTX_set_msg_callback`.

    `ssl` has it for debugging only, and makes enumerations of its arguments: the attribute below does not, which saves
    60 us a handshake. Where that is gone, nobody hears of anything.
    """
    attribute = getattr(_SSLContext, "_msg_callback", None)
    if attribute is not None:
        attribute.__set__(context, noticed)


def set_alpn(context: ssl.SSLContext, names: Sequence[str]) -> None:
    """For the handshake that begins next. Without names nothing is agreed."""
    context.set_alpn_protocols([name for name in names if name])


def load_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Serve this certificate; OSError (also ssl.SSLError) when it is none."""
    with _in_memory(chain + key) as path:
        context.load_cert_chain(path)


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A file for OpenSSL, which takes some things from files only; nobody else can open it."""
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _issuer(certificate: Mapping[str, Any] | None) -> str | None:
    """The common name of who has signed it, or its organisation."""
    names = {key: value for part in (certificate or {}).get("issuer", ()) for key, value in part}
    return names.get("commonName") or names.get("organizationName")


def facts_of(sock: ssl.SSLSocket, sni: str | None, *, is_verified: bool = True) -> TLSFacts:
    """What was agreed."""
    cipher = sock.cipher()
    return TLSFacts(
        version=sock.version() or "unknown",
        cipher=cipher[0] if cipher else "unknown",
        sni=sni,
        alpn=sock.selected_alpn_protocol(),
        is_resumed=bool(sock.session_reused),
        is_verified=is_verified,
    )
