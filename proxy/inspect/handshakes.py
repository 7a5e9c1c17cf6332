"""TLS on both sides of a session: the origin is asked first, and what it answers decides what the client is offered."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy.inspect.tls import TenantTLS, set_alpn
from proxy.poller import IN, OUT, Poller

ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # without a word, and by close_notify or with `tls.HALF_CLOSED`


class Failure(NamedTuple):
    """Why a handshake did not end well."""

    error: OSError
    reason: str  # in words
    is_certificate: bool = False  # the origin's is not to be trusted
    code: int = 0  # OpenSSL's X509_V_ERR_*


class Handshake:
    """One handshake on a socket that does not block. `then` is called once; the socket is unwatched by then."""

    __slots__ = ("_alpn", "_context", "_is_over", "_poller", "_then", "sock")

    def __init__(
        self,
        sock: ssl.SSLSocket,
        alpn: Sequence[str],
        poller: Poller,
        then: Callable[[Failure | None], None],
    ) -> None:
        self.sock, self._alpn, self._poller, self._then = sock, alpn, poller, then
        self._context, self._is_over = sock.context, False

    def start(self) -> None:
        """Begin, and go on as the other side answers."""
        self._poller.watch(self.sock.fileno(), IN, self._ready, self._crashed)
        self._step()

    def stop(self) -> None:
        """Nobody waits for it any more."""
        if not self._is_over:
            self._is_over = True
            self._poller.forget(self.sock.fileno())

    def _ready(self, events: int) -> None:
        self._step()

    def _step(self) -> None:
        if self._is_over:
            return
        if self.sock.server_side:
            set_alpn(self._context, self._alpn)  # read when the hello comes: other handshakes have the context too
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
            failure = Failure(error, words(error))
        except OSError as error:
            failure = Failure(error, error.strerror or str(error))
        except ValueError as error:  # a name or certificate that `ssl` itself does not like
            failure = Failure(OSError(errno.EPROTO, str(error)), str(error))
        self.stop()
        self._then(failure)

    def _crashed(self, error: BaseException) -> None:
        self.stop()
        self._then(Failure(OSError(errno.EPROTO, repr(error)), "an unexpected error in the handshake"))


def towards_origin(
    tls: TenantTLS, sock: socket.socket, name: str, endpoint: tuple[str, int], alpn: Sequence[str], verified: bool
) -> ssl.SSLSocket:
    """The origin's socket, ready to shake hands, in place of `sock`; ValueError: `name` is not a host name."""
    context = tls.towards_origin(verified)
    set_alpn(context, alpn)
    return context.wrap_socket(
        sock,
        do_handshake_on_connect=False,
        server_hostname=name,
        session=tls.session(name, *endpoint, verified),
    )


def towards_client(tls: TenantTLS, sock: socket.socket, name: str, untrusted: bool) -> ssl.SSLSocket:
    """The client's socket, ready to shake hands. It takes the place of `sock`."""
    context = tls.towards_client(name, untrusted)
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def words(error: ssl.SSLError) -> str:
    """What OpenSSL calls it, in lower case: `tlsv1 alert unknown ca`."""
    if isinstance(error, ENDS) or error.reason is None:
        return "the connection ended in the handshake"
    return error.reason.lower().replace("_", " ")


def is_refusal(error: OSError) -> bool:
    """Whether a client says by this that it does not trust the certificate: it may have pinned another."""
    if not isinstance(error, ssl.SSLError) or error.reason is None:
        return False
    said = error.reason.upper()
    return any(each in said for each in ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN"))


def is_departure(error: OSError) -> bool:
    """Whether a client has gone without a word: it may have pinned another certificate, or need the page no more."""
    return isinstance(error, (ConnectionResetError, BrokenPipeError, *ENDS))
