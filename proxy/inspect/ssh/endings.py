"""Maps the end of a session to a close reason of flow records."""

from __future__ import annotations

from typing import NamedTuple

import asyncssh

from proxy.flow.record import ClosedBy, CloseReason
from proxy.inspect.ssh.text import printable


class Outcome(NamedTuple):
    """How the session ended, for the flow's record."""

    reason: CloseReason
    by: ClosedBy
    detail: str | None = None


WRONG_MAC = "a packet with a wrong MAC"
LOGIN_TIMEOUT = "Login timeout expired"  # asyncssh's message


def how_client_ended(error: Exception | None, is_authenticated: bool) -> Outcome:
    """The outcome when the client's connection was lost because of `error`."""
    if isinstance(error, asyncssh.MACError):
        return Outcome("client_protocol_error", "client", WRONG_MAC)
    if isinstance(error, asyncssh.PermissionDenied | asyncssh.IllegalUserName) and not is_authenticated:
        return Outcome("denied", "proxy", printable(error.reason))
    if isinstance(error, asyncssh.ConnectionLost):
        if error.reason == LOGIN_TIMEOUT:
            return Outcome("client_idle_timeout", "client", "it did not log in within the time limit")
        if "keepalive" in error.reason:
            return Outcome("client_idle_timeout", "client", "it no longer answers")
        return Outcome("client_closed", "client", None if is_authenticated else "it disconnected before logging in")
    if isinstance(error, asyncssh.DisconnectError) and not _is_peers(error):
        return Outcome("client_protocol_error", "client", printable(error.reason))
    if isinstance(error, OSError):
        return Outcome("client_reset", "client")
    if error is not None and not isinstance(error, asyncssh.Error):  # asyncssh failed on malformed input
        return Outcome("client_protocol_error", "client", f"it does not speak SSH ({type(error).__name__})")
    return Outcome("client_closed", "client", None if is_authenticated else "it disconnected before logging in")


def how_origin_ended(error: Exception | None) -> Outcome:
    """The outcome when the origin's connection was lost after login because of `error`."""
    if isinstance(error, asyncssh.MACError):
        return Outcome("origin_protocol_error", "origin", WRONG_MAC)
    if isinstance(error, OSError):
        return Outcome("origin_reset", "origin")
    if isinstance(error, asyncssh.ConnectionLost):
        late = "keepalive" in error.reason
        return Outcome(
            "origin_timeout" if late else "origin_closed", "origin", "it no longer answers" if late else None
        )
    if isinstance(error, asyncssh.DisconnectError) and not _is_peers(error):
        return Outcome("origin_protocol_error", "origin", printable(error.reason))
    if error is not None and not isinstance(error, asyncssh.Error):
        return Outcome("origin_protocol_error", "origin", f"it does not speak SSH ({type(error).__name__})")
    return Outcome("origin_closed", "origin")


def _is_peers(error: asyncssh.DisconnectError) -> bool:
    """Whether the peer disconnected regularly, rather than because of a protocol error."""
    return error.code in (asyncssh.DISC_BY_APPLICATION, asyncssh.DISC_CONNECTION_LOST,
                          asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE)  # fmt: skip
