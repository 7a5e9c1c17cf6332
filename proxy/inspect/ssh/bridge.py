"""The two SSH connections of a session: authenticates the client, logs in at the origin, pairs channels."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Awaitable
from typing import Any

import asyncssh

from proxy.errors import ProxyError
from proxy.flow.record import ClosedBy, CloseReason
from proxy.inspect.ssh import origin
from proxy.inspect.ssh.algorithms import KEX, connection_options
from proxy.inspect.ssh.channels import ForwardedChannel, Front
from proxy.inspect.ssh.client import Server
from proxy.inspect.ssh.connections import ClientConnection, ServerConnection, start
from proxy.inspect.ssh.endings import Outcome, how_client_ended, how_origin_ended
from proxy.inspect.ssh.forwarding import Forwarding
from proxy.inspect.ssh.hook_arguments import Login
from proxy.inspect.ssh.key_exchange import RemoteKey
from proxy.inspect.ssh.ruling import ChannelState
from proxy.inspect.ssh.session_channels import SessionChannels
from proxy.inspect.ssh.text import printable
from proxy.inspect.ssh.view import SSHView
from proxy.verdict import Verdict

DISCONNECT = asyncssh.DISC_BY_APPLICATION
DELIVERY_S = 30.0  # for the client to take the last output of an origin that is lost, and then to disconnect


class Bridge:
    """One session. `run` returns when it has ended and its sockets are closed."""

    def __init__(self, view: SSHView) -> None:
        self.view, self.loop = view, asyncio.get_running_loop()
        self.user = self.identity = self.method = ""
        self.client: ServerConnection | None = None
        self.origin: ClientConnection | None = None
        self.has_agent = False
        self._origin: asyncio.Future[ClientConnection] = self.loop.create_future()
        self._authenticated, self._agent, self._over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._idle = asyncio.Event()
        self._numbers = itertools.count(1)
        self._open = 0
        self._is_draining = False
        self._outcome: Outcome | None = None
        self._sessions, self._forwarding = SessionChannels(self), Forwarding(self)

    async def run(self, client_sock: socket.socket, origin_sock: socket.socket) -> Outcome:
        """Run the session from the client's banner to the end of both connections."""
        serving = asyncio.ensure_future(start(ServerConnection, self, client_sock, self._server_options()))
        try:
            await self._wait_authenticated(serving)
            if self._outcome is None and await self._may_log_in() and await self._has_credentials():
                await self._reach_origin(origin_sock)
            await self._over.wait()
        except asyncio.CancelledError:
            self._end("admin_killed", "proxy")
            self._disconnect_client("the session was ended")
            raise
        finally:
            self._closing = asyncio.ensure_future(self._close(serving, client_sock, origin_sock))
            await asyncio.shield(self._closing)  # even if cancelled again
        assert self._outcome is not None
        return self._outcome

    def drain(self, reason: str) -> None:
        """End politely: refuse new channels, and disconnect with a reason after the last one has ended."""
        self._is_draining = True
        if self._open == 0:
            self._finish_draining(reason)
            return

        async def wait() -> None:
            await self._idle.wait()
            self._finish_draining(reason)

        self._waiting = asyncio.ensure_future(wait())
        self._idle.clear()

    def _finish_draining(self, reason: str) -> None:
        self._disconnect_client(reason)
        self._end("drain", "proxy")

    # Events of the connections.

    def client_connected(self, conn: Any) -> None:
        self.client = conn

    def client_lost(self, error: Exception | None) -> None:
        self._end(*how_client_ended(error, self._authenticated.is_set()))

    def user_requested(self, user: str) -> None:
        self.user = user

    def identified(self, identity: str, method: str) -> None:
        self.identity, self.method = identity, method

    async def authenticated(self) -> None:
        self._authenticated.set()
        if self.view.rules.onward != "agent":  # the agent is reached by a channel, which needs a login first
            await asyncio.wait([self._origin])

    def banner(self, text: str, language: str) -> None:
        if self.client is not None:
            with contextlib.suppress(OSError):  # the client is already authenticated
                self.client.send_auth_banner(text, language)

    def agent_available(self) -> None:
        self.has_agent = True
        self._agent.set()

    # Requests of the connections.

    def session_front(self) -> Awaitable[Front]:
        return self._sessions.front()

    def forward(self, host: str, port: int, orig_host: str, orig_port: int) -> Awaitable[ForwardedChannel]:
        return self._forwarding.tcp(host, port, orig_host, orig_port)

    def forward_unix(self, path: str) -> Awaitable[ForwardedChannel]:
        return self._forwarding.unix(path)

    def listen(self, host: str, port: int) -> Awaitable[Any]:
        return self._forwarding.listen(host, port)

    def listen_unix(self, path: str) -> Awaitable[Any]:
        return self._forwarding.listen_unix(path)

    def open_agent(self) -> Awaitable[ForwardedChannel]:
        return self._forwarding.agent()

    def open_x11(self, host: str, port: int) -> Awaitable[ForwardedChannel]:
        return self._forwarding.x11(host, port)

    # For channels.

    @property
    def principals(self) -> list[str]:
        """The principals of the certificate presented to the origin."""
        return [] if self.origin is None else self.origin.principals

    def new_channel(self) -> ChannelState:
        return ChannelState(self, f"{self.view.flow.id}.{next(self._numbers)}")

    async def origin_connection(self) -> ClientConnection:
        try:
            return await asyncio.shield(self._origin)
        except asyncio.CancelledError:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the origin is not connected") from None

    def reserve_channel(self) -> None:
        most = self.view.rules.max_channels
        if self._is_draining or self._open >= most:
            why = "the proxy is about to stop" if self._is_draining else f"{most} channels are open already"
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, why)
        self._open += 1
        self._idle.clear()

    def release_channel(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._idle.set()

    # Internal.

    async def _close(self, serving: asyncio.Future[Any], *socks: socket.socket) -> None:
        """Close both sockets after asyncio has released them, as their descriptor numbers may be reused at once."""
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        for conn in (self.client, self.origin):
            if conn is not None:
                conn.abort()
                await conn.wait_closed()
        await asyncio.sleep(0)
        for sock in socks:
            sock.close()

    def _server_options(self) -> asyncssh.SSHServerConnectionOptions:
        rules = self.view.rules
        key = RemoteKey(rules.host_key, lambda data, algorithm: self.view.sign("host", data, algorithm))
        return asyncssh.SSHServerConnectionOptions(
            **connection_options(rules, KEX),
            server_factory=lambda: Server(self),
            server_host_keys=[key],
            agent_forwarding=False,  # asyncssh would create a listener in the file system
            x11_forwarding=False,
            server_version="oxy",
        )

    async def _wait_authenticated(self, serving: asyncio.Future[Any]) -> None:
        """Wait until the client is authenticated, or has failed."""
        waits = [asyncio.ensure_future(each.wait()) for each in (self._authenticated, self._over)]
        try:
            await asyncio.wait([serving, *waits], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        if serving.done() and not serving.cancelled() and (error := serving.exception()) is not None:
            self.client_lost(error if isinstance(error, Exception) else None)

    async def _may_log_in(self) -> bool:
        """Whether the hook `ssh_auth` permits the login; it is not asked about responses that it has judged itself."""
        if self.method in ("password", "keyboard-interactive") or not self.view.has("ssh_auth"):
            return True
        method = {"tunnel": "none", "certificate": "publickey"}.get(self.method, self.method)
        answer = await self.view.ask("ssh_auth", Login(self.user, method, self.identity or None))
        reason = answer.reason or "denied" if isinstance(answer, Verdict) and answer.is_denial else answer
        if not isinstance(reason, str):
            return True
        self._end("denied", "proxy", reason)
        self._disconnect_client(f"denied: {reason}")
        return False

    async def _has_credentials(self) -> bool:
        """Obtain the credentials for the origin. Returns whether the session continues."""
        if self.view.rules.onward == "agent":
            await self._unless_over(self._agent.wait())
        return self._outcome is None

    async def _unless_over(self, work: Awaitable[Any]) -> asyncio.Future[Any] | None:
        """Wait for `work` and return it; None if the session ends first."""
        task, over = asyncio.ensure_future(work), asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
            return task if task.done() else None
        finally:
            over.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _reach_origin(self, sock: socket.socket) -> None:
        connecting = await self._unless_over(origin.connect(self, sock, self.user, self.identity, self.client))
        if connecting is None:
            return
        try:
            conn = self.origin = connecting.result()
        except ProxyError as error:
            self._refuse(str(error), "origin" if error.side == "origin" else "proxy")
            return
        self._origin.set_result(conn)
        self._origin_watch = asyncio.ensure_future(self._watch_origin(conn))

    def _refuse(self, reason: str, by: ClosedBy) -> None:
        """End the session without an origin; the user sees the reason."""
        self._end("origin_protocol_error" if by == "origin" else "denied", by, reason)
        self._disconnect_client(reason)

    async def _watch_origin(self, conn: ClientConnection) -> None:
        """The origin is lost: deliver its last output, then the reason, before the client's connection ends."""
        await conn.wait_closed()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DELIVERY_S):
                await self._wait_until_idle()
        if self._outcome is None and self.client is not None:
            self._outcome = how_origin_ended(conn.lost)
            self.client.announce_end(asyncssh.DISC_CONNECTION_LOST, "the origin has closed the connection")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DELIVERY_S):
                    await self.client.wait_closed()
        self._end(*how_origin_ended(conn.lost))

    async def _wait_until_idle(self) -> None:
        """Wait until no channel is open, or the session has ended."""
        if self._open:
            self._idle.clear()
            await self._unless_over(self._idle.wait())

    def _disconnect_client(self, reason: str, code: int = DISCONNECT) -> None:
        if self.client is not None:
            self.client.disconnect(code, printable(reason, 500))

    def _end(self, reason: CloseReason, by: ClosedBy, detail: str | None = None) -> None:
        if self._outcome is None:
            self._outcome = Outcome(reason, by, detail)
        self._over.set()
        self._origin.cancel()  # its result is no longer needed
