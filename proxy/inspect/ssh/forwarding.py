"""Connections that one side opens through the other: ports, Unix sockets, the client's agent and display."""

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

Open = Callable[[Any, Through], Awaitable[Any]]  # the connection, and the end that the new channel gets


class Beginning:
    """Finds out what is forwarded: a host that is jumped to, a web server."""

    def __init__(self, ruled: Ruled) -> None:
        self._ruled, self._first = ruled, b""

    def came(self, data: bytes) -> bool:
        """Whether more is needed to know."""
        self._first += data[: MOST_SNIFFED - len(self._first)]
        found = sniff(self._first)
        if found is None:
            return len(self._first) < MOST_SNIFFED
        if found is not Sniffed.UNKNOWN:
            self._ruled.protocol = found.value
        return False


class Forwarding:
    """Those of one session."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening

    # What the client opens at the origin.

    async def tcp(self, host: str, port: int, orig_host: str, orig_port: int) -> Through:
        """A connection that the origin is to make (`-L`, `-D`, `-J`, `-W`)."""

        def opened(conn: Any, back: Through) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_connection(
                lambda: back, host, port, orig_host, orig_port, encoding=None, **SIZES
            )
            return made

        return await self._to_origin("direct-tcpip", host, port, opened)

    async def unix(self, path: str) -> Through:
        """The same to a Unix socket at the origin."""

        def opened(conn: Any, back: Through) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_unix_connection(lambda: back, path, encoding=None, **SIZES)
            return made

        return await self._to_origin("direct-streamlocal", path, None, opened)

    # What the origin listens at for the client.

    async def listen(self, host: str, port: int) -> Any:
        """A port that the origin listens at (`-R`): asyncssh's listener, or False."""

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
        """The same at a Unix socket."""

        async def came() -> Through:
            def opened(conn: Any, front: Through) -> Awaitable[Any]:
                made: Awaitable[Any] = conn.create_unix_connection(lambda: front, path, encoding=None, **SIZES)
                return made

            return await self._to_client("forwarded-streamlocal", path, None, opened)

        origin = await self._may_listen("streamlocal-forward", path, None)
        if origin is None:
            return False
        return await _listener(origin.create_unix_server(came, path, encoding=None, **SIZES))

    # What the origin opens at the client.

    async def agent(self) -> Through:
        """The client's agent."""

        def opened(conn: Any, front: Through) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_agent_connection(lambda: front)
            return made

        return await self._to_client("auth-agent", None, None, opened)

    async def x11(self, host: str, port: int) -> Through:
        """The client's display."""

        def opened(conn: Any, front: Through) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_x11_connection(lambda: front, host, port)
            return made

        return await self._to_client("x11", None, None, opened)

    async def _may_listen(self, kind: str, host: str, port: int | None) -> Any:
        """The origin; None when the client may not have it listen there."""
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
        """The client's end; the origin's is there first."""
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
        """The origin's end; the client's is there first. Whether it may be was asked when the client asked for it."""
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
        """Open the far end, and leave it to `near` to go on when it is there too."""
        far = Through()
        near.peer_end, near.ended = far, ended
        near.began = Beginning(ruled).came  # whoever opens the channel speaks first in all that is known here
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
        far.chan.pause_reading()  # what comes before the near end is open would have nowhere to go


async def _listener(made: Awaitable[Any]) -> Any:
    try:
        return await made
    except (OSError, asyncssh.Error, asyncssh.ChannelListenError):  # the last is no asyncssh.Error
        return False
