"""Forwarded connections: ports, Unix sockets, the client's agent and display."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh

from proxy.inspect.ssh.channels import ForwardedChannel
from proxy.inspect.ssh.contexts import ChannelContext
from proxy.inspect.ssh.ruling import ChannelState, Denied, decide
from proxy.inspect.ssh.text import printable
from proxy.wire.sniff import Sniffed, sniff

WINDOW = 2 << 20
PACKET = 32 << 10
MAX_SNIFFED = 1_024  # bytes
SIZES = {"window": WINDOW, "max_pktsize": PACKET}

Open = Callable[[Any, ForwardedChannel], Awaitable[Any]]  # (connection, session of the new channel)


class ProtocolDetector:
    """Detects the protocol that is forwarded, such as SSH to another host, or HTTP."""

    def __init__(self, state: ChannelState) -> None:
        self._state, self._first = state, b""

    def feed(self, data: bytes) -> bool:
        """Observe the first bytes. Returns whether more are needed."""
        self._first += data[: MAX_SNIFFED - len(self._first)]
        found = sniff(self._first)
        if found is None:
            return len(self._first) < MAX_SNIFFED
        if found is not Sniffed.UNKNOWN:
            self._state.protocol = found.value
        return False


class Forwarding:
    """The forwarded connections of one session."""

    def __init__(self, context: ChannelContext) -> None:
        self._context = context

    # From the client to the origin.

    async def tcp(self, host: str, port: int, orig_host: str, orig_port: int) -> ForwardedChannel:
        """A connection that the origin should make (`-L`, `-D`, `-J`, `-W`)."""

        def opened(conn: Any, back: ForwardedChannel) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_connection(
                lambda: back, host, port, orig_host, orig_port, encoding=None, **SIZES
            )
            return made

        return await self._to_origin("direct-tcpip", host, port, opened)

    async def unix(self, path: str) -> ForwardedChannel:
        """A connection to a Unix socket at the origin."""

        def opened(conn: Any, back: ForwardedChannel) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_unix_connection(lambda: back, path, encoding=None, **SIZES)
            return made

        return await self._to_origin("direct-streamlocal", path, None, opened)

    # Listeners at the origin.

    async def listen(self, host: str, port: int) -> Any:
        """Let the origin listen on a port (`-R`). Returns asyncssh's listener, or False."""

        async def accepted(orig_host: str, orig_port: int) -> ForwardedChannel:
            def opened(conn: Any, front: ForwardedChannel) -> Awaitable[Any]:
                made: Awaitable[Any] = conn.create_connection(
                    lambda: front, host, listener.get_port(), orig_host, orig_port, encoding=None, **SIZES
                )
                return made

            return await self._to_client("forwarded-tcpip", host, listener.get_port(), opened)

        origin = await self._may_listen("tcpip-forward", host, port)
        if origin is None:
            return False
        listener: Any = await _listener(origin.create_server(accepted, host, port, encoding=None, **SIZES))
        return listener

    async def listen_unix(self, path: str) -> Any:
        """Let the origin listen on a Unix socket."""

        async def accepted() -> ForwardedChannel:
            def opened(conn: Any, front: ForwardedChannel) -> Awaitable[Any]:
                made: Awaitable[Any] = conn.create_unix_connection(lambda: front, path, encoding=None, **SIZES)
                return made

            return await self._to_client("forwarded-streamlocal", path, None, opened)

        origin = await self._may_listen("streamlocal-forward", path, None)
        if origin is None:
            return False
        return await _listener(origin.create_unix_server(accepted, path, encoding=None, **SIZES))

    # From the origin to the client.

    async def agent(self) -> ForwardedChannel:
        """A connection to the client's agent."""

        def opened(conn: Any, front: ForwardedChannel) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_agent_connection(lambda: front)
            return made

        return await self._to_client("auth-agent", None, None, opened)

    async def x11(self, host: str, port: int) -> ForwardedChannel:
        """A connection to the client's display."""

        def opened(conn: Any, front: ForwardedChannel) -> Awaitable[Any]:
            made: Awaitable[Any] = conn.create_x11_connection(lambda: front, host, port)
            return made

        return await self._to_client("x11", None, None, opened)

    async def _may_listen(self, kind: str, host: str, port: int | None) -> Any:
        """The connection to the origin; None if the client may not let it listen there."""
        state = self._context.new_channel()
        state.begin(kind, host=host, port=port)
        try:
            await decide(state)
            return await self._context.origin_connection()
        except (Denied, asyncssh.Error):
            return None
        finally:
            state.end(None)

    async def _to_origin(self, kind: str, host: str, port: int | None, opened: Open) -> ForwardedChannel:
        """The client's end; the origin's is opened first."""
        context = self._context
        context.reserve_channel()
        front = ForwardedChannel()
        state = context.new_channel()
        state.begin(kind, host=host, port=port)

        def ended(error: Exception | None) -> None:
            context.release_channel()
            state.end(front)

        await self._open_far_end(state, await self._origin_for(state, ended), opened, front, ended)
        return front

    async def _origin_for(self, state: ChannelState, ended: Callable[[Exception | None], None]) -> Any:
        try:
            await self._context.client.earlier_requests()
            await decide(state)
            return await self._context.origin_connection()
        except Denied as denied:
            ended(None)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, str(denied)) from None
        except BaseException:
            ended(None)
            raise

    async def _to_client(self, kind: str, host: str | None, port: int | None, opened: Open) -> ForwardedChannel:
        """The origin's end; the client's is opened first. It was decided when the client requested the forwarding."""
        context = self._context
        context.reserve_channel()
        back = ForwardedChannel()
        state = context.new_channel()
        state.begin(kind, host=host, port=port)

        def ended(error: Exception | None) -> None:
            context.release_channel()
            state.end(back.peer_end)

        await self._open_far_end(state, context.client, opened, back, ended, is_towards_client=True)
        return back

    async def _open_far_end(
        self,
        state: ChannelState,
        conn: Any,
        opened: Open,
        near: ForwardedChannel,
        ended: Callable[[Exception | None], None],
        *,
        is_towards_client: bool = False,
    ) -> None:
        """Open the far end; `near` continues once it is open too."""
        far = ForwardedChannel()
        near.peer_end, near.ended = far, ended
        # in all protocols detected here, the side that opens the channel speaks first
        near.observe_start = ProtocolDetector(state).feed
        state.back = near if is_towards_client else far
        try:
            if conn is None:
                raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the connection is closed")
            await opened(conn, far)
        except (asyncssh.Error, OSError) as error:
            state.error = printable(getattr(error, "reason", None) or str(error))
            ended(None)
            if isinstance(error, asyncssh.ChannelOpenError):
                raise
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, state.error) from error
        far.chan.pause_reading()  # until the near end is open


async def _listener(made: Awaitable[Any]) -> Any:
    try:
        return await made
    except (OSError, asyncssh.Error, asyncssh.ChannelListenError):  # the last is not an asyncssh.Error
        return False
