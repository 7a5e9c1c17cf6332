"""Why an exchange failed, as one word to count and compare."""

from __future__ import annotations

import errno
import socket
import ssl

_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTDOWN: "unreachable",
    errno.EACCES: "unreachable",  # ICMPv6 'administratively prohibited'; its IPv4 twin is EHOSTUNREACH
    errno.ENOPROTOOPT: "unreachable",  # ICMP 'protocol unreachable'
    errno.ETIMEDOUT: "timeout",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.EMSGSIZE: "too_big",
    errno.EADDRNOTAVAIL: "no_local_address",
    errno.EAFNOSUPPORT: "no_local_address",
    errno.EMFILE: "no_descriptors",
}


class Failed(Exception):
    """An exchange failed. `kind` is one word, `text` a sentence."""

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__(text or kind)
        self.kind, self.text = kind, text or kind


class Unusable(Exception):
    """Nothing can be sent, because the request is invalid at this node, for the reason in `str()`."""


def failed(error: Exception) -> Failed:
    """The failure of an exchange that `error`, raised by sockets or TLS, means."""
    if isinstance(error, Failed):
        return error
    if isinstance(error, TimeoutError):  # also asyncio's, which has no errno
        return Failed("timeout", "no answer in time")
    if isinstance(error, ssl.SSLError):
        return Failed("tls", str(error))
    if isinstance(error, socket.gaierror):
        return Failed("unknown_name", str(error.strerror))
    if isinstance(error, ConnectionResetError) and error.errno is None:  # asyncio: 'Connection lost'
        return Failed("reset", str(error))
    if isinstance(error, OSError):
        name = errno.errorcode.get(error.errno or 0, "error").lower()
        return Failed(_KINDS.get(error.errno or 0, name), error.strerror or str(error))
    raise error
