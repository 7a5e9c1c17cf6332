"""From two connected sockets to a handler: sniff, ask policies and the hook, then terminate TLS or pass the session on.

A session that cannot be read still works: while the client's bytes have only been peeked at, it can be handed back to
the proxy, which relays it. If the connection to the origin has been used by then, a new one is dialled.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from proxy.errors import ProxyError
from proxy.flow.tls import tls_record
from proxy.inspect import handshakes
from proxy.inspect.handshakes import Failure, Handshake
from proxy.inspect.readers import HTTP_ALPN, READERS, Inner
from proxy.inspect.relay import Relay
from proxy.inspect.session import Session
from proxy.inspect.sniffing import Finding, Sniffer
from proxy.inspect.sockets import SocketStream, TLSStream
from proxy.inspect.ssh.session import SSHSession
from proxy.inspect.stream import Handler, Side
from proxy.inspect.tls import CERTIFICATE_ALERTS, TenantTLS, alert, facts_of
from proxy.session.facts import TLSFacts
from proxy.session.messages import HostException, LeafAnswer
from proxy.verdict import Decision, Verdict
from proxy.wire.client_hello import Hello
from proxy.wire.sniff import Sniffed

ASKS_CERTIFICATE = "the origin asks for a client's certificate"
PINNED_AFTER = 3  # consecutive handshakes abandoned without an alert after which a host counts as pinned
UNREAD = ("packet", "stream")  # levels


class Opening:
    """The stage of a session before it is read."""

    def __init__(
        self, session: Session, tls: TenantTLS, exceptions: Mapping[tuple[str, str], str],
        *, sniff_s: float, handshake_s: float,
    ) -> None:  # fmt: skip
        """`exceptions`: hosts that are passed unread, each with the client's address or empty, and why, as earlier
        sessions have shown."""
        self._session, self._tls, self._exceptions = session, tls, exceptions
        self._sniff_s, self._handshake_s = sniff_s, handshake_s
        self._sniffer: Sniffer | None = None
        self._handshake: Handshake | None = None
        self._hello: Hello | None = None
        self._level = session.level
        self._is_verified = True  # False: the settings accept an origin whose certificate is not trusted
        self._origin_facts: TLSFacts | None = None
        self._issuer: str | None = None  # of the origin's certificate

    def start(self) -> None:
        """Begin to sniff."""
        session = self._session
        session.stage = self
        session.arm(self._sniff_s)
        client, origin = session.socket_of(Side.CLIENT), session.socket_of(Side.ORIGIN)
        self._sniffer = Sniffer(client, origin, session.poller, self._sniffed)

    def expired(self) -> None:
        session = self._session
        if self._sniffer is not None:
            self._sniffer.expired()
        elif self._handshake is not None and self._handshake.sock.server_side:
            self._client_failed(Failure(OSError("timeout"), "the handshake took too long"))
        else:
            self._update_record(error="the origin's handshake took too long")
            session.end("origin_timeout", "origin")

    def drain(self) -> None:
        """Nothing to do: no protocol has begun."""

    def stop(self) -> None:
        if self._sniffer is not None:
            self._sniffer.stop()
        if self._handshake is not None:
            self._handshake.stop()

    @property
    def _host(self) -> str:
        """The host whose certificate the client expects."""
        assert self._hello is not None
        return self._hello.sni or self._session.flow.dst

    # Protocol detection.

    def _sniffed(self, finding: Finding) -> None:
        session = self._session
        self._sniffer = None
        if finding.protocol is not Sniffed.UNKNOWN:
            session.protocol = finding.protocol.value
        if self._level == "ssh" and finding.protocol is not Sniffed.SSH:
            self._pass(finding.why or "it is not SSH")
        elif finding.hello is not None and finding.has_ended:  # it sends no more: no handshake can complete
            session.end("client_closed", "client")
        elif finding.hello is not None:
            self._handle_hello(finding.hello)
        elif finding.protocol is Sniffed.SSH and (ssh := self._tls.rules.ssh) is not None and self._level != "tls":
            SSHSession(session, ssh).start()
        elif finding.protocol in (Sniffed.HTTP1, Sniffed.HTTP2) and self._level == "http":
            reader = READERS.get(finding.protocol.value)
            if reader is None:
                self._pass("no inspector reads this protocol")
            else:
                self._open_plain(reader)
        else:
            self._pass(finding.why or f"{finding.protocol.value}, which is not inspected")

    def _open_plain(self, reader: Callable[[Session], Handler]) -> None:
        session, inspector = self._session, self._session.inspector
        for side in Side:
            session.open(
                side, SocketStream(side, session.socket_of(side), session.poller, inspector.turn, session.crashed)
            )
        session.begin(reader(session))

    def _handle_hello(self, hello: Hello) -> None:
        session = self._session
        self._hello = hello
        session.tls_record = tls_record(hello)
        for client in (session.flow.src, ""):
            if (why := self._exceptions.get((self._host, client))) is not None:
                self._pass(why)
                return
        session.flow.policy_facts.update(self._facts(hello))
        ruling = session.judge("tls", {})
        if ruling is not None:
            session.decisions = session.decisions + ruling.decisions
            if not self._obey(ruling.verdict):
                return
        if session.has("tls_client_hello"):
            session.ask("tls_client_hello", hello, self._hook_answered)
        else:
            self._start_origin_handshake()

    def _facts(self, hello: Hello) -> dict[str, Any]:
        """The fields for rules of the phase `tls`, in addition to those of the flow."""
        record = self._session.tls_record
        assert record is not None
        name = hello.sni or ""
        labels = name.split(".") if name else []
        return {
            "net.sni.host": name,
            "net.sni.domains": [".".join(labels[at:]) for at in range(len(labels))],
            "net.protocol.detection": "tls",
            "tls.alpn": list(hello.alpn),
            "tls.version": record.version,
            "tls.ja4": record.ja4,
        }

    def _hook_answered(self, answer: Any) -> None:
        """Take the hook's answer: None, the reason of a denial, or a verdict."""
        session = self._session
        if answer is None:
            self._start_origin_handshake()
            return
        verdict = Verdict(action="deny", reason=answer) if isinstance(answer, str) else answer
        decision = Decision("tls_client_hello", "hook", verdict.action, reason=verdict.reason)
        session.decisions = [*session.decisions, decision]
        if self._obey(verdict):
            self._start_origin_handshake()

    def _obey(self, verdict: Verdict) -> bool:
        """Apply `verdict`. Returns whether inspection continues."""
        session = self._session
        if verdict.is_denial:
            sends_alert = verdict.refusal != "drop"  # by an alert, which tells the client more than a TCP reset
            if sends_alert:
                _send_final(session.socket_of(Side.CLIENT), alert("access_denied"))
            session.end("denied", "proxy", "origin" if sends_alert else "both")
            return False
        if verdict.level in UNREAD:
            self._pass("policy", decided=True)
            return False
        if verdict.level in ("tls", "http"):
            self._level = verdict.level
        return True

    # The origin's handshake comes first.

    def _start_origin_handshake(self) -> None:
        session, hello = self._session, self._hello
        assert hello is not None
        session.arm(self._handshake_s)
        flow = session.flow
        offered = list(hello.alpn)
        if self._level == "http":
            offered = [each for each in hello.alpn if each in HTTP_ALPN]
            if hello.alpn and not offered:
                self._level, offered = "tls", list(hello.alpn)
        try:
            tls_sock = handshakes.wrap_origin(
                self._tls,
                session.socket_of(Side.ORIGIN),
                self._host,
                (flow.dst, flow.dst_port),
                offered,
                self._is_verified,
            )
        except (OSError, ValueError) as error:
            self._redial(f"TLS is not possible with this name: {error}")
            return
        session.replace_socket(Side.ORIGIN, tls_sock)
        self._handshake = Handshake(tls_sock, offered, session.poller, self._origin_handshake_done)
        self._handshake.start()

    def _origin_handshake_done(self, failure: Failure | None) -> None:
        session = self._session
        assert self._handshake is not None
        sock, self._handshake = self._handshake.sock, None
        if failure is not None:
            self._origin_failed(failure)
            return
        if sock in self._tls.certificate_requesters:
            self._update_record(asks_certificate=True)
            if self._tls.rules.client_certificates == "pass":
                session.inspector.send(HostException(session.number, self._host, ASKS_CERTIFICATE))
                self._redial(ASKS_CERTIFICATE)
                return
        facts, flow = facts_of(sock, self._host, is_verified=self._is_verified), session.flow
        self._origin_facts = facts
        self._issuer = self._tls.issuer(sock, self._host, flow.dst, flow.dst_port, self._is_verified)
        self._update_record(
            origin_version=facts.version, origin_cipher=facts.cipher, origin_is_resumed=facts.is_resumed,
            issuer=self._issuer,
        )  # fmt: skip
        self._request_leaf()

    def _origin_failed(self, failure: Failure) -> None:
        """Do what the tenant's settings say about an untrusted certificate, or a failed handshake, of the origin."""
        session, action = self._session, self._tls.rules.bad_certificate
        self._update_record(error=failure.reason)
        if failure.is_certificate and action == "untrusted":
            self._is_verified = False
            session.redial(self._redialled)
            return
        session.origin_error = ProxyError(failure.reason, side="origin").because(failure.error)
        hello = self._hello
        assert hello is not None
        reads_http = self._level == "http" and (not hello.alpn or any(each in HTTP_ALPN for each in hello.alpn))
        if action == "page" and reads_http and READERS:
            session.socket_of(Side.ORIGIN).close()
            self._origin_facts = None
            self._request_leaf()
            return
        alert_name = (
            CERTIFICATE_ALERTS.get(failure.code, "bad_certificate") if failure.is_certificate else "handshake_failure"
        )
        self._update_record(action="terminate")
        _send_final(session.socket_of(Side.CLIENT), alert(alert_name))
        session.end("origin_tls_error", "origin", "origin")

    def _redialled(self, sock: socket.socket | None) -> None:
        if sock is None:
            self._session.end("origin_unreachable", "origin")
        else:
            self._start_origin_handshake()

    def _redial(self, why: str) -> None:
        """Pass the session on unread, over a new connection to the origin, since this one has been used."""

        def redialled(sock: socket.socket | None) -> None:
            if sock is None:
                self._session.end("origin_unreachable", "origin")
            else:
                self._pass(why)

        self._session.redial(redialled)

    # Then the client's.

    def _request_leaf(self) -> None:
        name, untrusted = self._host, not self._is_verified
        if self._tls.has_leaf(name, untrusted):
            self._start_client_handshake()
        else:
            self._session.request_leaf(name, untrusted, self._leaf_received)

    def _leaf_received(self, answer: LeafAnswer) -> None:
        problem = answer.error
        if problem is None:
            try:
                self._tls.add_leaf(self._host, not self._is_verified, answer)
            except OSError as error:
                problem = f"the leaf cannot be used: {error}"
        if problem is None:
            self._start_client_handshake()
        else:
            self._redial(problem)

    def _start_client_handshake(self) -> None:
        session = self._session
        tls_sock = handshakes.wrap_client(self._tls, session.socket_of(Side.CLIENT), self._host, not self._is_verified)
        session.replace_socket(Side.CLIENT, tls_sock)
        agreed = [self._origin_facts.alpn] if self._origin_facts is not None and self._origin_facts.alpn else []
        if self._origin_facts is None and self._hello is not None:  # the client gets an error page only
            agreed = [each for each in self._hello.alpn if each in HTTP_ALPN]
        self._handshake = Handshake(tls_sock, agreed, session.poller, self._client_handshake_done)
        self._handshake.start()

    def _client_handshake_done(self, failure: Failure | None) -> None:
        session = self._session
        assert self._handshake is not None
        sock, self._handshake = self._handshake.sock, None
        if failure is not None:
            self._client_failed(failure)
            return
        self._tls.reset_abandoned(self._host, session.flow.src)
        facts = facts_of(sock, self._hello.sni if self._hello is not None else None)
        self._update_record(
            action="terminate", version=facts.version, cipher=facts.cipher, alpn=facts.alpn,
            is_resumed=facts.is_resumed,
        )  # fmt: skip
        session.level = self._level
        inspector, flow = session.inspector, session.flow
        session.open(Side.CLIENT, TLSStream(Side.CLIENT, sock, session.poller, inspector.turn, session.crashed, facts))
        if self._origin_facts is not None:
            origin = session.socket_of(Side.ORIGIN)
            assert isinstance(origin, ssl.SSLSocket)
            after_read = self._tls.session_saver(self._host, flow.dst, flow.dst_port, self._is_verified, self._issuer)
            session.open(
                Side.ORIGIN,
                TLSStream(
                    Side.ORIGIN, origin, session.poller, inspector.turn, session.crashed, self._origin_facts, after_read
                ),
            )  # fmt: skip
        session.begin(self._reader(facts.alpn))

    def _reader(self, alpn: str | None) -> Handler:
        session = self._session
        if self._level != "http":
            return Relay(session)
        if alpn is None and session.origin is not None:
            return Inner(session, self._sniff_s)
        reader = READERS.get(HTTP_ALPN.get(alpn or "http/1.1", ""))
        if reader is None:
            session.level = "tls"
            return Relay(session)
        return reader(session)

    def _client_failed(self, failure: Failure) -> None:
        """The handshake with the client failed: it may reject our certificate, or share no version or cipher."""
        session = self._session
        self._update_record(action="terminate", error=failure.reason)
        if self._is_verified and self._tls.rules.learn_pinned and self._is_pinning(failure.error):
            pins, client = "the client pins certificates", session.flow.src
            session.inspector.send(HostException(session.number, self._host, pins, client))
        session.end("client_tls_error", "client")

    def _is_pinning(self, error: OSError) -> bool:
        """Whether the failure suggests a pinned certificate.

        Browsers send an alert; many applications just close, but so does a client that is cancelled.
        """
        if handshakes.is_rejection(error):
            return True
        return (
            handshakes.is_abandonment(error)
            and self._tls.count_abandoned(self._host, self._session.flow.src) >= PINNED_AFTER
        )

    def _update_record(self, **facts: Any) -> None:
        """Add facts to the TLS part of the flow's record."""
        session = self._session
        assert session.tls_record is not None
        session.tls_record = msgspec.structs.replace(session.tls_record, **facts)

    def _pass(self, why: str, *, decided: bool = False) -> None:
        session = self._session
        if not decided:
            decision = Decision("inspect", "default", "pass", reason=why)
            session.decisions = [*session.decisions, decision]
        session.pass_on()


def _send_final(sock: socket.socket, data: bytes) -> None:
    """Send something short before the end, if the kernel takes it. Received data is read first: closing a socket with
    unread data resets the connection, and `data` would be lost."""
    try:
        while sock.recv(65_536):
            pass
    except OSError:
        pass
    try:
        sock.send(data)
    except OSError:
        pass
