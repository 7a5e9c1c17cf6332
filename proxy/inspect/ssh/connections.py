"""The two connections, with what asyncssh lacks: limits on buffered data, and keys that sign in another process.

asyncssh writes to its transport without limit: a peer that opens a large window and reads nothing, or never completes a
key exchange, would make the proxy buffer everything that the other side sends.

This module, `key_exchange` and `server_channel` use undocumented names of asyncssh, which
`tests/inspect/ssh/test_asyncssh.py` lists.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Awaitable
from typing import Any, ClassVar, TypeVar

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.constants import (
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_REQUEST_SUCCESS,
)
from asyncssh.logging import SSHLogger
from asyncssh.packet import Boolean, String, UInt32

from proxy.inspect.ssh.channel_buffers import write_order
from proxy.inspect.ssh.channels import PairedChannel
from proxy.inspect.ssh.contexts import ConnectionContext
from proxy.inspect.ssh.key_exchange import KeyExchange

HIGH_WATER = 128 << 10  # bytes queued for a socket above which the other side is not read; the same as sshd
MAX_IN_KERNEL = 128 << 10  # unsent bytes in the kernel, which delay the echo of a keystroke
READ_BYTES = 64 << 10  # per read: the amount to decrypt and encrypt before other sessions have their turn
MAX_WRITE = 64 << 10  # bytes of one write
MAX_UNSENT = 16 << 20  # bytes of answers that a peer does not read
MAX_UNREAD = 1 << 20  # bytes that wait until a packet has been handled
MAX_REQUESTS = 128  # requests that wait for an answer
EXCHANGE_S = 60.0
NO_SSH = b"Invalid SSH identification string.\r\n"  # sshd's message


class QuietLogger(SSHLogger):
    """A logger that formats nothing: asyncssh formats names and lengths even if they are not logged."""

    def log(self, level: int, msg: object, *arguments: Any, **more: Any) -> None:
        if self._logger.isEnabledFor(level):
            super().log(level, msg, *arguments, **more)


class BoundedConnection(SSHConnection):
    """A connection that stops its channels while nothing can be sent."""

    bridge: ConnectionContext
    exchange_s = EXCHANGE_S

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._logger = QuietLogger(self._logger._logger, context=self._logger._context)
        self._holds: set[str] = set()
        self._exchange_timer: asyncio.TimerHandle | None = None
        self._is_reading_paused = False
        self._outgoing: list[bytes] = []  # not yet written to the socket
        self._outgoing_size = 0
        self._next: PairedChannel | None = None  # the channel whose turn to write is next
        self._requests = self._answers = 0  # global requests: received, and answered
        # by the number of answers they wait for
        self._request_waiters: deque[tuple[int, asyncio.Event]] = deque()

    @property
    def is_full(self) -> bool:
        """Whether data written now would only be buffered."""
        return bool(self._holds)

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended. asyncssh's `is_closed` is true only when its channels have ended, too."""
        return self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.WriteTransport):
            transport.set_write_buffer_limits(high=HIGH_WATER)
            with contextlib.suppress(OSError):  # not a TCP socket
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_IN_KERNEL)
        if hasattr(transport, "max_size"):  # an attribute of asyncio's socket transports; 256 KiB by default
            transport.max_size = READ_BYTES

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        super().data_received(data, datatype)
        if len(self._inpbuf) > MAX_UNREAD and self._transport is not None and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:  # type: ignore[override]
        """asyncssh aborts the transport in the loop's next turn. True: asyncio does not close it in this one, where it
        may send what is left, finish, and then fail on the abort."""
        super().eof_received()
        return True

    def pause_writing(self) -> None:
        self._hold("socket")

    def resume_writing(self) -> None:
        self._release("socket")

    def _finish_recv_packet(self, *arguments: Any, **more: Any) -> None:
        super()._finish_recv_packet(*arguments, **more)
        if self._is_reading_paused and len(self._inpbuf) <= MAX_UNREAD and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        """Send a packet without the empty IGNORE that asyncssh puts before each, against a weakness of CBC mode (RFC
        4251 9.3.1): CBC is not used here, and each IGNORE costs time on both sides (docs/performance-notes.md)."""
        if pkttype != MSG_IGNORE:
            super().send_packet(pkttype, *args)  # without `handler`, which only logs

    def log_sent_packet(self, *arguments: Any, **more: Any) -> None:
        """Do nothing: asyncssh formats names and lengths of packets even if they are not logged."""

    log_received_packet = log_sent_packet

    def _send(self, data: bytes) -> None:
        """Batch the packets of one iteration of the event loop: a system call costs as much as encrypting several
        packets, and wakes the peer (docs/performance-notes.md)."""
        self._outgoing.append(data)
        self._outgoing_size += len(data)
        if self._outgoing_size >= MAX_WRITE:
            self._flush_outgoing()
        elif len(self._outgoing) == 1:
            self._loop.call_soon(self._flush_outgoing)

    def _flush_outgoing(self) -> None:
        if not self._outgoing:
            return
        data = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
        self._outgoing, self._outgoing_size = [], 0
        super()._send(data)
        transport = self._transport
        if "socket" not in self._holds or transport is None:
            return
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self._force_close(asyncssh.ProtocolError("the peer does not read what it is sent"))

    def _send_kexinit(self) -> None:
        super()._send_kexinit()
        self._hold("exchange")
        self._forget_timer()
        self._exchange_timer = self._loop.call_later(self.exchange_s, self._exchange_expired)

    def _process_newkeys(self, kind: int, number: int, packet: Any) -> None:
        super()._process_newkeys(kind, number, packet)
        self._forget_timer()
        self._release("exchange")

    def _process_global_request(self, kind: int, number: int, packet: Any) -> None:
        if len(self._global_request_queue) >= MAX_REQUESTS:
            raise asyncssh.ProtocolError("too many requests at once")
        self._requests += 1
        super()._process_global_request(kind, number, packet)

    def _report_global_response(self, result: bool | bytes) -> None:
        self._answers += 1
        super()._report_global_response(result)
        while self._request_waiters and self._request_waiters[0][0] <= self._answers:
            self._request_waiters.popleft()[1].set()

    async def earlier_requests(self) -> None:
        """Wait until all earlier requests have been answered.

        sshd handles everything in order, and clients rely on it: they request a listening port, then a connection to
        that port, without waiting in between.
        """
        if self._answers < self._requests:
            answered = asyncio.Event()
            self._request_waiters.append((self._requests, answered))
            await answered.wait()

    def _exchange_expired(self) -> None:
        self._exchange_timer = None
        error = asyncssh.ProtocolError("the key exchange takes too long")
        self._send_disconnect(error.code, error.reason, error.lang)
        self._force_close(error)

    def disconnect(self, code: int, reason: str, lang: str = "en-US") -> None:
        """Disconnect before any channel is closed: OpenSSH's client exits with its last channel, without reading on."""
        self._send_disconnect(code, reason, lang)
        self._force_close(None)

    def announce_end(self, code: int, reason: str) -> None:
        """Send a disconnect behind all data, and leave closing to the peer: a close would drop what is not yet sent."""
        words = UInt32(code), String(reason), String("en-US")
        if "exchange" in self._holds:  # data waits for the new keys; a disconnect would not
            self._deferred_packets.append((MSG_DISCONNECT, words))
        else:
            self.send_packet(MSG_DISCONNECT, *words)

    def _force_close(self, exc: Exception | None) -> None:
        self._flush_outgoing()
        super()._force_close(exc)

    def _cleanup(self, exc: Exception | None) -> None:
        self._forget_timer()
        while self._request_waiters:
            self._request_waiters.popleft()[1].set()
        super()._cleanup(exc)

    def _forget_timer(self) -> None:
        if self._exchange_timer is not None:
            self._exchange_timer.cancel()
            self._exchange_timer = None

    def _hold(self, why: str) -> None:
        self._holds.add(why)
        for session in self._paired_channels():
            session.hold("connection")

    def _release(self, why: str) -> None:
        """Let channels write, one after another, until nothing more can be sent. The last one to write is last in the
        next round. If all were released at once, each would write its whole queue.
        """
        self._holds.discard(why)
        sessions = write_order(self._paired_channels(), self._next)
        for at, session in enumerate(sessions):
            if self._holds:
                self._next = sessions[at]
                return
            session.release("connection")

    def _paired_channels(self) -> list[PairedChannel]:
        sessions: list[Any] = [each._session for each in self._channels.values()]
        return [each for each in sessions if isinstance(each, PairedChannel)]

    # The table of handlers contains functions, so overridden methods must be entered again.
    _packet_handlers: ClassVar[Any] = {  # type: ignore[misc]
        **SSHConnection._packet_handlers,
        MSG_NEWKEYS: lambda self, *packet: self._process_newkeys(*packet),
        MSG_KEXINIT: lambda self, *packet: self._process_kexinit(*packet),
        MSG_GLOBAL_REQUEST: lambda self, *packet: self._process_global_request(*packet),
    }


class ServerConnection(BoundedConnection, asyncssh.SSHServerConnection):
    """The connection to the client."""

    certificate: Any = None  # the certificate being validated

    def _recv_version(self) -> bool:
        """Read the client's version. Anything that is not SSH gets sshd's message in clear text."""
        line, is_whole, _ = self._inpbuf.partition(b"\n")
        if is_whole and not line.startswith((b"SSH-2.0-", b"SSH-1.99-")) and self._transport is not None:
            self._send(NO_SSH)
        return super()._recv_version()

    async def send_userauth_success(self) -> None:
        """Report success only after the login at the origin, whose banner or refusal must come first."""
        self._cancel_login_timer()  # the login at the origin has its own time limit
        await self.bridge.authenticated()
        if self._transport is not None and not self._auth_complete:
            await super().send_userauth_success()

    async def _process_kexinit(self, kind: int, number: int, packet: Any) -> None:
        await super()._process_kexinit(kind, number, packet)
        if self._kex is not None:
            self._kex = KeyExchange(self._kex, self)  # type: ignore[assignment]

    async def _validate_openssh_certificate(self, username: str, cert: Any) -> Any:
        self.certificate = cert  # `SSHServer.validate_ca_key` gets only its signer
        return await super()._validate_openssh_certificate(username, cert)

    async def create_agent_connection(self, session_factory: Any, **more: Any) -> tuple[Any, Any]:
        """Open a channel to the client's agent, without the listener in the file system that asyncssh needs."""
        chan = self.create_agent_channel(**more)
        return chan, await chan.open(session_factory)


class ClientConnection(BoundedConnection, asyncssh.SSHClientConnection):
    """The connection to the origin, which may open channels to the client's agent and display."""

    lost: Exception | None = None  # why it ended
    principals: list[str] = []  # noqa: RUF012  # of the certificate presented to the origin; replaced, never changed

    signs_at_once = True  # unless each signature needs the user's consent
    _has_tried_none = False

    def try_next_auth(self, *, next_method: bool = False) -> None:
        """Try a key first. asyncssh, like ssh, begins with the method `none` to learn which methods are accepted, which
        would cost every login a round trip."""
        if not self._has_tried_none:
            if self._auth is None:
                self._auth_methods = [b"publickey"]
            elif len(self._auth_methods) <= next_method:
                self._has_tried_none, next_method = True, False
                self._auth_methods = [b"none"]
        super().try_next_auth(next_method=next_method)

    async def send_userauth_request(self, method: bytes, *args: bytes, key: Any = None, trivial: bool = True) -> None:
        """Sign at once, instead of asking first whether the key is acceptable: saves a round trip (RFC 4252 7)."""
        auth: Any = self._auth
        if method == b"publickey" and key is None and self.signs_at_once and auth is not None:
            key, args, trivial = auth._keypair, (Boolean(True), *args[1:]), False
        await super().send_userauth_request(method, *args, key=key, trivial=trivial)

    async def _process_success(self, kind: int, number: int, packet: Any) -> None:
        """Resume the requester before anything else is read: the first connection to a port on which the origin listens
        may follow the answer immediately, and asyncssh refuses it unless the port is known by then."""
        self._process_global_response(kind, number, packet)
        await asyncio.sleep(0)

    def set_agent_forwarding(self, wanted: bool) -> None:
        """Set whether the next session channel requests agent forwarding."""
        self._agent_forward_path = "the client's" if wanted else None

    async def attach_x11_listener(self, chan: Any, display: Any, auth_path: Any, single_connection: bool) -> Any:
        """The client's X11 parameters, which `create_session` was given as `x11_display`."""
        return display[:3]

    def detach_x11_listener(self, chan: Any) -> None:
        """Nothing to do: no listener was attached."""

    def _process_x11_open(self, packet: Any) -> tuple[Any, Awaitable[Any]]:
        host, port = packet.get_string().decode("utf-8", "replace"), packet.get_uint32()
        packet.check_end()
        chan = self.create_x11_channel()
        chan.set_inbound_peer_names(host, port)
        return chan, self.bridge.open_x11(host, port)

    def _process_auth_agent_at_openssh_dot_com_open(self, packet: Any) -> tuple[Any, Awaitable[Any]]:
        packet.check_end()
        return self.create_unix_channel(), self.bridge.open_agent()

    _packet_handlers: ClassVar[Any] = {  # type: ignore[misc]
        **BoundedConnection._packet_handlers,
        MSG_REQUEST_SUCCESS: lambda self, *packet: self._process_success(*packet),
    }


Connection = TypeVar("Connection", ServerConnection, ClientConnection)


async def start(kind: type[Connection], bridge: ConnectionContext, sock: socket.socket, options: Any) -> Connection:
    """Start a connection and wait until its user is authenticated. Takes over `sock`. asyncssh.Error, OSError."""
    loop = asyncio.get_running_loop()
    options.waiter = loop.create_future()

    def made() -> Connection:
        conn = kind(loop, options, wait="auth")
        conn.bridge = bridge
        return conn

    _, conn = await loop.create_connection(made, sock=sock)
    is_authenticated = False
    try:
        await options.waiter
        is_authenticated = True
        return conn
    finally:
        if not is_authenticated:
            conn.abort()
            await conn.wait_closed()  # asyncio must release the socket before its owner closes it
