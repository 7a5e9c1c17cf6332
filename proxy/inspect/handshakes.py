"""TLS handshakes on both sides: the origin's comes first, and its result decides what the client is offered."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy.inspect.tls import TenantTLS, set_alpn
from proxy.poller import IN, OUT, Watcher

ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # without close_notify; with it, or under `tls.HALF_CLOSED`


class Failure(NamedTuple):
    """Why a handshake failed."""

    error: OSError
    reason: str  # human-readable
    is_certificate: bool = False  # the origin's certificate is not trusted
    code: int = 0  # OpenSSL's X509_V_ERR_*


class Handshake:
    """One handshake on a non-blocking socket. Stops watching the socket, then calls `then`, once."""

    __slots__ = ("_alpn", "_context", "_is_over", "_poller", "_then", "sock")

    def __init__(
        self,
        sock: ssl.SSLSocket,
        alpn: Sequence[str],
        poller: Watcher,
        then: Callable[[Failure | None], None],
    ) -> None:
        self.sock, self._alpn, self._poller, self._then = sock, alpn, poller, then
        self._context, self._is_over = sock.context, False

    def start(self) -> None:
        """Begin the handshake; it continues as the peer answers."""
        self._poller.watch(self.sock.fileno(), IN, self._ready, self._crashed)
        self._step()

    def stop(self) -> None:
        """Cancel it: `then` is not called."""
        if not self._is_over:
            self._is_over = True
            self._poller.forget(self.sock.fileno())

    def _ready(self, events: int) -> None:
        self._step()

    def _step(self) -> None:
        if self._is_over:
            return
        if self.sock.server_side:
            set_alpn(self._context, self._alpn)  # read by OpenSSL at the ClientHello; the context is shared
        failure = None
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._poller.change(self.sock.fileno(), IN)
            return
        except ssl.SSLWantWriteError:
            self._poller.change(self.sock.fileno(), OUT)
            return
        except ssl.SSLCertVerificationError as error:
            failure = Failure(error, error.verify_message or "certificate verify failed", True, error.verify_code)
        except ssl.SSLError as error:
            failure = Failure(error, error_text(error))
        except OSError as error:
            failure = Failure(error, error.strerror or str(error))
        except ValueError as error:  # a name or certificate that `ssl` itself rejects
            failure = Failure(OSError(errno.EPROTO, str(error)), str(error))
        self.stop()
        self._then(failure)

    def _crashed(self, error: BaseException) -> None:
        self.stop()
        self._then(Failure(OSError(errno.EPROTO, repr(error)), "unexpected error in the handshake"))


def wrap_origin(
    tls: TenantTLS, sock: socket.socket, name: str, endpoint: tuple[str, int], alpn: Sequence[str], verified: bool
) -> ssl.SSLSocket:
    """A TLS socket that takes over `sock`, before its handshake. ValueError: `name` is not a host name."""
    context = tls.origin_context(verified)
    set_alpn(context, alpn)
    return context.wrap_socket(
        sock,
        do_handshake_on_connect=False,
        server_hostname=name,
        session=tls.session(name, *endpoint, verified),
    )


def wrap_client(tls: TenantTLS, sock: socket.socket, name: str, untrusted: bool) -> ssl.SSLSocket:
    """A TLS socket that takes over `sock`, before its handshake."""
    context = tls.client_context(name, untrusted)
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def error_text(error: ssl.SSLError) -> str:
    """OpenSSL's name of the error, in lower case: `tlsv1 alert unknown ca`."""
    if isinstance(error, ENDS) or error.reason is None:
        return "the connection ended in the handshake"
    return error.reason.lower().replace("_", " ")


def is_rejection(error: OSError) -> bool:
    """Whether the client rejected the certificate by an alert: it may have pinned another."""
    if not isinstance(error, ssl.SSLError) or error.reason is None:
        return False
    reason = error.reason.upper()
    return any(each in reason for each in ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN"))


def is_abandonment(error: OSError) -> bool:
    """Whether the client closed without an alert: it may have pinned another certificate, or was cancelled."""
    return isinstance(error, (ConnectionResetError, BrokenPipeError, *ENDS))
