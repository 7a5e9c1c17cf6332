"""The two SSH connections of one session: the client is let in, the origin is logged into, channels are tied."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from typing import Any, NamedTuple

import asyncssh

from proxy.errors import ProxyError
from proxy.flow.record import ClosedBy, CloseReason
from proxy.inspect.ssh import origin
from proxy.inspect.ssh.algorithms import available
from proxy.inspect.ssh.channels import DENIED_STATUS, STDERR, Back, Front, Through
from proxy.inspect.ssh.client import PACKET, WINDOW, Server
from proxy.inspect.ssh.origin import printable
from proxy.inspect.ssh.question import Login
from proxy.inspect.ssh.ruling import Denied, Ruled, rule
from proxy.inspect.ssh.taps import tap_for
from proxy.inspect.ssh.view import SSHView
from proxy.verdict import Verdict

log = logging.getLogger(__name__)

DISCONNECT = asyncssh.DISC_BY_APPLICATION


class Outcome(NamedTuple):
    """How the session ended, for the flow's record."""

    reason: CloseReason
    by: ClosedBy
    detail: str | None = None


class Bridge:
    """One session. `run` returns when it is over; the sockets are closed by then."""

    def __init__(self, view: SSHView) -> None:
        self.view, self.loop = view, asyncio.get_running_loop()
        self.user = self.identity = self.method = ""
        self.client: asyncssh.SSHServerConnection | None = None
        self.origin: asyncssh.SSHClientConnection | None = None
        self._origin: asyncio.Future[asyncssh.SSHClientConnection] = self.loop.create_future()
        self._authenticated, self._over = asyncio.Event(), asyncio.Event()
        self._numbers = itertools.count(1)
        self._open = 0
        self._outcome: Outcome | None = None

    async def run(self, client_sock: socket.socket, origin_sock: socket.socket) -> Outcome:
        """From the client's banner to the end of both connections."""
        rules = self.view.rules
        kex, ciphers, macs = available()
        serving = asyncio.ensure_future(
            asyncssh.run_server(
                client_sock,
                config=[],
                server_factory=lambda: Server(self),
                server_host_keys=[asyncssh.import_private_key(rules.host_key)],
                kex_algs=kex,
                encryption_algs=ciphers,
                mac_algs=macs,
                compression_algs=None,
                x509_trusted_certs=None,
                gss_host=None,
                agent_forwarding=False,
                x11_forwarding=False,
                login_timeout=rules.login_s,
                keepalive_interval=rules.keepalive_s,
                keepalive_count_max=3,
                server_version="oxy",
            )
        )
        try:
            await self._until(serving)
            if self._outcome is None and await self._may_log_in():
                await self._reach_origin(origin_sock)
            await self._over.wait()
        except asyncio.CancelledError:
            self._end("admin_killed", "proxy")
            raise
        finally:
            serving.cancel()
            for conn in (self.client, self.origin):
                if conn is not None:
                    conn.abort()
            origin_sock.close()
            client_sock.close()
        assert self._outcome is not None
        return self._outcome

    def disconnect(self, reason: str) -> None:
        """End it politely: the client is told why."""
        if self.client is not None:
            self.client.disconnect(DISCONNECT, reason)
        self._end("drain", "proxy")

    # What the client's side tells.

    def client_met(self, conn: asyncssh.SSHServerConnection) -> None:
        self.client = conn

    def client_lost(self, error: Exception | None) -> None:
        if isinstance(error, asyncssh.ProtocolError | asyncssh.KeyExchangeFailed | asyncssh.CompressionError):
            self._end("client_protocol_error", "client", printable(error.reason))
        elif isinstance(error, asyncssh.MACError):
            self._end("client_protocol_error", "client", "a packet with a wrong MAC")
        elif isinstance(error, OSError):
            self._end("client_reset", "client")
        elif isinstance(error, asyncssh.ConnectionLost) and not self._authenticated.is_set():
            self._end("client_closed", "client", "it left before it had logged in")
        elif isinstance(error, asyncssh.Error) and not self._authenticated.is_set():
            self._end("denied", "proxy", printable(error.reason))
        else:
            self._end("client_closed", "client")

    def wants_to_be(self, user: str) -> None:
        self.user = user

    def proved(self, identity: str, method: str) -> None:
        self.identity, self.method = identity, method

    def authenticated(self) -> None:
        self._authenticated.set()

    async def session_front(self) -> Front:
        """A session channel of the client's; there is an origin to open the same at."""
        self._take_place()
        try:
            await self._reached()
        except BaseException:
            self._open -= 1
            raise
        ruled = Ruled(self, f"{self.view.flow.id}.{next(self._numbers)}")

        async def request(front: Front, command: str | None, subsystem: str | None) -> str | None:
            kind = "exec" if command is not None else "subsystem" if subsystem is not None else "shell"
            ruled.begin(kind, command=command, subsystem=subsystem)
            try:
                await rule(ruled)
            except Denied as denied:
                return f"denied: {denied}"
            await self._open_session(ruled, front)
            return None

        def ended(error: Exception | None) -> None:
            self._open -= 1
            ruled.end(front)

        front = Front(request, ended)
        return front

    async def forward(self, host: str, port: int, orig_host: str, orig_port: int) -> Through:
        """A connection that the origin is to open for the client (`-L`, `-J`, `-W`)."""
        ruled = await self._forwarding("direct-tcpip", host, port)
        front = Through()

        async def opened(conn: asyncssh.SSHClientConnection, back: Through) -> None:
            await conn.create_connection(lambda: back, host, port, orig_host, orig_port, encoding=None,
                                         window=WINDOW, max_pktsize=PACKET)  # fmt: skip

        await self._forwarded(ruled, front, opened)
        return front

    async def forward_unix(self, path: str) -> Through:
        """The same to a Unix socket at the origin."""
        ruled = await self._forwarding("direct-streamlocal", path, None)
        front = Through()

        async def opened(conn: asyncssh.SSHClientConnection, back: Through) -> None:
            await conn.create_unix_connection(lambda: back, path, encoding=None, window=WINDOW, max_pktsize=PACKET)

        await self._forwarded(ruled, front, opened)
        return front

    async def listen(self, host: str, port: int) -> Any:
        """A port that the origin is to listen at for the client (`-R`): the listener, or False."""
        try:
            conn = await self._reached()
            ruled = Ruled(self, f"{self.view.flow.id}.{next(self._numbers)}")
            ruled.begin("tcpip-forward", host=host, port=port)
            await rule(ruled)
        except (Denied, asyncssh.Error):
            return False

        async def came(orig_host: str, orig_port: int) -> Through:
            assert self.client is not None
            came = Ruled(self, f"{self.view.flow.id}.{next(self._numbers)}")
            came.begin("forwarded-tcpip", host=host, port=port)
            front = Through(lambda error: came.end(front))
            back = Through()
            back.peer_end = front
            await self.client.create_connection(lambda: front, host, port, orig_host, orig_port, encoding=None)
            front.chan.pause_reading()
            came.back = back
            return back

        try:
            return await conn.create_server(came, host, port, encoding=None, window=WINDOW, max_pktsize=PACKET)
        except (OSError, asyncssh.Error):
            return False

    # Inside.

    async def _until(self, serving: asyncio.Future[Any]) -> None:
        """Until somebody has logged in, or never will."""
        waits = [asyncio.ensure_future(each.wait()) for each in (self._authenticated, self._over)]
        try:
            await asyncio.wait([serving, *waits], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        if serving.done() and not serving.cancelled() and (error := serving.exception()) is not None:
            if not isinstance(error, asyncssh.Error | OSError):
                raise error
            self.client_lost(error)

    async def _may_log_in(self) -> bool:
        """Whether the application does not object."""
        if not self.view.has("ssh_auth"):
            return True
        method = {"tunnel": "none", "certificate": "publickey"}.get(self.method, self.method)
        answer = await self.view.ask("ssh_auth", Login(self.user, method))
        reason = answer.reason or "denied" if isinstance(answer, Verdict) and answer.is_denial else answer
        if not isinstance(reason, str):
            return True
        self._end("denied", "proxy", reason)
        if self.client is not None:
            self.client.disconnect(DISCONNECT, f"denied: {reason}")
        self._origin.cancel()
        return False

    async def _reach_origin(self, sock: socket.socket) -> None:
        reaching = asyncio.ensure_future(origin.connect(sock, self.view, self.user, self.identity))
        over = asyncio.ensure_future(self._over.wait())
        await asyncio.wait([reaching, over], return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not reaching.done():
            reaching.cancel()
            await asyncio.gather(reaching, return_exceptions=True)
            self._origin.cancel()
            return
        try:
            self.origin = reaching.result()
        except ProxyError as error:
            self._refuse(str(error))
            return
        self._origin.set_result(self.origin)
        lost = asyncio.ensure_future(self.origin.wait_closed())
        lost.add_done_callback(lambda _: self._origin_lost())

    def _refuse(self, reason: str) -> None:
        """There is no origin: the user reads why."""
        self._end("origin_protocol_error", "origin", reason)
        if self.client is not None:
            self.client.disconnect(DISCONNECT, reason)
        self._origin.cancel()

    def _origin_lost(self) -> None:
        if self._outcome is None:
            self._end("origin_closed", "origin")
            if self.client is not None:
                self.client.disconnect(asyncssh.DISC_CONNECTION_LOST, "the origin has closed the connection")

    def _end(self, reason: CloseReason, by: ClosedBy, detail: str | None = None) -> None:
        if self._outcome is None:
            self._outcome = Outcome(reason, by, detail)
            self._over.set()

    async def _reached(self) -> asyncssh.SSHClientConnection:
        try:
            return await asyncio.shield(self._origin)
        except asyncio.CancelledError:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the origin is not reached") from None

    def _take_place(self) -> None:
        if self._open >= self.view.rules.max_channels:
            message = f"{self._open} channels are open already"
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, message)
        self._open += 1

    async def _open_session(self, ruled: Ruled, front: Front) -> None:
        assert self.origin is not None
        chan, back = front.chan, Back()
        terminal = chan.get_terminal_type()
        size = chan.get_terminal_size()

        def ended(why: str) -> None:
            chan.write(f"\r\nended: {why}\r\n".encode(), STDERR)
            chan.exit(DENIED_STATUS)

        tap = await tap_for(ruled, terminal, size, chan.write, ended)
        ruled.back, ruled.tap = back, tap
        front.tap = back.tap = tap
        ruled.terminal = terminal
        try:
            await self.origin.create_session(
                lambda: back,
                ruled.command,
                subsystem=ruled.subsystem,
                env=dict(chan.get_environment_bytes()),
                send_env=None,
                request_pty="force" if terminal is not None else False,
                term_type=terminal,
                term_size=size,
                term_modes=chan.get_terminal_modes(),
                x11_forwarding=False,
                encoding=None,
                window=WINDOW,
                max_pktsize=PACKET,
            )
        except (asyncssh.Error, OSError) as error:
            ruled.error = printable(getattr(error, "reason", None) or str(error))
            raise
        if front.chan.is_closing():
            back.chan.close()
            return
        front.tie(back)

    async def _forwarding(self, kind: str, host: str, port: int | None) -> Ruled:
        self._take_place()
        try:
            await self._reached()
            ruled = Ruled(self, f"{self.view.flow.id}.{next(self._numbers)}")
            ruled.begin(kind, host=host, port=port)
            await rule(ruled)
        except Denied as denied:
            self._open -= 1
            ruled.end(None)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, str(denied)) from None
        except BaseException:
            self._open -= 1
            raise
        return ruled

    async def _forwarded(self, ruled: Ruled, front: Through, opened: Any) -> None:
        """Tie the client's end to the origin's, which is there first."""
        assert self.origin is not None

        def ended(error: Exception | None) -> None:
            self._open -= 1
            ruled.end(front)

        back = Through()
        ruled.back, front.peer_end, front.ended = back, back, ended
        try:
            await opened(self.origin, back)
        except (asyncssh.Error, OSError) as error:
            ruled.error = printable(getattr(error, "reason", None) or str(error))
            ended(None)
            raise
        back.chan.pause_reading()  # what comes before the client's end is open would have nowhere to go
