"""Forwarded connections: ports, Unix sockets, the client's agent and display."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh

from proxy.inspect.ssh.bridging import Opening
from proxy.inspect.ssh.channels import Through
from proxy.inspect.ssh.ruling import Denied, Ruled, rule
from proxy.inspect.ssh.text import printable
from proxy.wire.sniff import Sniffed, sniff

WINDOW = 2 << 20
PACKET = 32 << 10
MOST_SNIFFED = 1_024  # bytes
SIZES = {"window": WINDOW, "max_pktsize": PACKET}

Open = Callable[[Any, Through], Awaitable[Any]]  # (connection, session of the new channel)


class Beginning:
    """Detects the protocol that is forwarded, such as SSH to another host, or HTTP."""

    def __init__(self, ruled: Ruled) -> None:
        self._ruled, self._first = ruled, b""

    def came(self, data: bytes) -> bool:
        """Observe the first bytes. Returns whether more are needed."""
        self._first += data[: MOST_SNIFFED - len(self._first)]
        found = sniff(self._first)
        if found is None:
            return len(self._first) < MOST_SNIFFED
        if found is not Sniffed.UNKNOWN:
            self._ruled.protocol = found.value
        return False


class Forwarding:
    """The forwarded connections of one session."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    # From the client to the origin.

    async def tcp(self, host: str, port: int, orig_host: str, orig_port: int) -> Through:
        """A connection that the origin should make (`-L`, `-D`, `-J`, `-W`)."""

        def opened(conn: Any, back: Through) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_connection(
                lambda: back, host, port, orig_host, orig_port, encoding=None, **SIZES
            )
            return made

        return await self._to_origin("direct-tcpip", host, port, opened)

    async def unix(self, path: str) -> Through:
        """A connection to a Unix socket at the origin."""

        def opened(conn: Any, back: Through) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_unix_connection(lambda: back, path, encoding=None, **SIZES)
            return made

        return await self._to_origin("direct-streamlocal", path, None, opened)

    # Listeners at the origin.

    async def listen(self, host: str, port: int) -> Any:
        """Let the origin listen on a port (`-R`). Returns asyncssh's listener, or False."""

        async def came(orig_host: str, orig_port: int) -> Through:
            def opened(conn: Any, front: Through) -> Awaitable[Any]:
                made: Awaitable[Any] = conn.create_connection(
                    lambda: front, host, listener.get_port(), orig_host, orig_port, encoding=None, **SIZES
                )
                return made

            return await self._to_client("forwarded-tcpip", host, listener.get_port(), opened)

        origin = await self._may_listen("tcpip-forward", host, port)
        if origin is None:
            return False
        listener: Any = await _listener(origin.create_server(came, host, port, encoding=None, **SIZES))
        return listener

    async def listen_unix(self, path: str) -> Any:
        """Let the origin listen on a Unix socket."""

        async def came() -> Through:
            def opened(conn: Any, front: Through) -> Awaitable[Any]:
                made: Awaitable[Any] = conn.create_unix_connection(lambda: front, path, encoding=None, **SIZES)
                return made

            return await self._to_client("forwarded-streamlocal", path, None, opened)

        origin = await self._may_listen("streamlocal-forward", path, None)
        if origin is None:
            return False
        return await _listener(origin.create_unix_server(came, path, encoding=None, **SIZES))

    # From the origin to the client.

    async def agent(self) -> Through:
        """A connection to the client's agent."""

        def opened(conn: Any, front: Through) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_agent_connection(lambda: front)
            return made

        return await self._to_client("auth-agent", None, None, opened)

    async def x11(self, host: str, port: int) -> Through:
        """A connection to the client's display."""

        def opened(conn: Any, front: Through) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_x11_connection(lambda: front, host, port)
            return made

        return await self._to_client("x11", None, None, opened)

    async def _may_listen(self, kind: str, host: str, port: int | None) -> Any:
        """The connection to the origin; None if the client may not let it listen there."""
        ruled = self._opening.ruled()
        ruled.begin(kind, host=host, port=port)
        try:
            await rule(ruled)
            return await self._opening.reached()
        except (Denied, asyncssh.Error):
            return None
        finally:
            ruled.end(None)

    async def _to_origin(self, kind: str, host: str, port: int | None, opened: Open) -> Through:
        """The client's end; the origin's is opened first."""
        opening = self._opening
        opening.take_place()
        front = Through()
        ruled = opening.ruled()
        ruled.begin(kind, host=host, port=port)

        def ended(error: Exception | None) -> None:
            opening.leave_place()
            ruled.end(front)

        await self._tie(ruled, await self._origin_for(ruled, ended), opened, front, ended)
        return front

    async def _origin_for(self, ruled: Ruled, ended: Callable[[Exception | None], None]) -> Any:
        try:
            await self._opening.client.earlier_requests()
            await rule(ruled)
            return await self._opening.reached()
        except Denied as denied:
            ended(None)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, str(denied)) from None
        except BaseException:
            ended(None)
            raise

    async def _to_client(self, kind: str, host: str | None, port: int | None, opened: Open) -> Through:
        """The origin's end; the client's is opened first. It was decided when the client requested the forwarding."""
        opening = self._opening
        opening.take_place()
        back = Through()
        ruled = opening.ruled()
        ruled.begin(kind, host=host, port=port)

        def ended(error: Exception | None) -> None:
            opening.leave_place()
            ruled.end(back.peer_end)

        await self._tie(ruled, opening.client, opened, back, ended, is_towards_client=True)
        return back

    async def _tie(
        self, ruled: Ruled, conn: Any, opened: Open, near: Through, ended: Callable[[Exception | None], None],
        *, is_towards_client: bool = False,
    ) -> None:  # fmt: skip
        """Open the far end; `near` continues once it is open too."""
        far = Through()
        near.peer_end, near.ended = far, ended
        near.began = Beginning(
            ruled
        ).came  # in all protocols detected here, the side that opens the channel speaks first
        ruled.back = near if is_towards_client else far
        try:
            if conn is None:
                raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the connection is closed")
            await opened(conn, far)
        except (asyncssh.Error, OSError) as error:
            ruled.error = printable(getattr(error, "reason", None) or str(error))
            ended(None)
            if isinstance(error, asyncssh.ChannelOpenError):
                raise
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, ruled.error) from error
        far.chan.pause_reading()  # until the near end is open


async def _listener(made: Awaitable[Any]) -> Any:
    try:
        return await made
    except (OSError, asyncssh.Error, asyncssh.ChannelListenError):  # the last is not an asyncssh.Error
        return False
