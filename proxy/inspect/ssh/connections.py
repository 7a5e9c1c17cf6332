"""The two connections, with what asyncssh leaves out: bounds of what a peer makes us hold, keys that sign elsewhere.

asyncssh writes into its transport without end: whoever opens a large window and reads nothing, or begins a key exchange
and never ends it, would have us hold all that the other side says.

Here, in `exchange` and in `server_channel` names of asyncssh's are used that it does not document
(`tests/inspect/ssh/test_asyncssh.py` lists them).
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
from asyncssh.constants import MSG_GLOBAL_REQUEST, MSG_IGNORE, MSG_KEXINIT, MSG_NEWKEYS, MSG_REQUEST_SUCCESS
from asyncssh.logging import SSHLogger
from asyncssh.packet import Boolean

from proxy.inspect.ssh.bridging import Bridging
from proxy.inspect.ssh.channels import Tied
from proxy.inspect.ssh.exchange import Exchange
from proxy.inspect.ssh.held import in_turn

HIGH_WATER = 128 << 10  # bytes that wait for a socket before the other side is read no more; sshd holds as much
MOST_IN_KERNEL = 128 << 10  # bytes that wait there, unsent: a key's echo waits behind them
READ_BYTES = 64 << 10  # at a time: what is decrypted and encrypted again before other sessions have their turn
MOST_SAID = 64 << 10  # at once
MOST_UNSENT = 16 << 20  # for a peer that asks and asks, and does not read the answers
MOST_UNREAD = 1 << 20  # bytes that wait until a packet is dealt with
MOST_REQUESTS = 128  # that wait for an answer
EXCHANGE_S = 60.0
NO_SSH = b"Invalid SSH identification string.\r\n"  # in the words of sshd


class Quiet(SSHLogger):
    """asyncssh makes texts of all names and lengths before it looks whether anybody reads them."""

    def log(self, level: int, msg: object, *arguments: Any, **more: Any) -> None:
        if self._logger.isEnabledFor(level):
            super().log(level, msg, *arguments, **more)


class Bounded(SSHConnection):
    """A connection that tells its channels when nothing can be sent."""

    bridge: Bridging
    exchange_s = EXCHANGE_S

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._logger = Quiet(self._logger._logger, context=self._logger._context)
        self._holds: set[str] = set()
        self._exchange_timer: asyncio.TimerHandle | None = None
        self._is_slowed = False
        self._said: list[bytes] = []  # that the socket has not been given yet
        self._said_size = 0
        self._next: Tied | None = None  # whose turn it is to be written
        self._requests = self._answers = 0  # global ones, as they came and as they were answered
        self._behind: deque[tuple[int, asyncio.Event]] = deque()  # who waits for how many answers

    @property
    def is_full(self) -> bool:
        """Whether what is written would only be held here."""
        return bool(self._holds)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if isinstance(transport, asyncio.WriteTransport):
            transport.set_write_buffer_limits(high=HIGH_WATER)
            with contextlib.suppress(OSError):  # of another kind than TCP
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_IN_KERNEL)
        if hasattr(transport, "max_size"):  # of asyncio's transports of sockets; 256 KiB
            transport.max_size = READ_BYTES

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        super().data_received(data, datatype)
        if len(self._inpbuf) > MOST_UNREAD and self._transport is not None and not self._is_slowed:
            self._is_slowed = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:  # type: ignore[override]
        """asyncssh aborts the transport in the loop's next turn. True: asyncio does not close it in this one, where it
        may send what is left, be done with it, and then stumble over the abort."""
        super().eof_received()
        return True

    def pause_writing(self) -> None:
        self._hold("socket")

    def resume_writing(self) -> None:
        self._release("socket")

    def _finish_recv_packet(self, *arguments: Any, **more: Any) -> None:
        super()._finish_recv_packet(*arguments, **more)
        if self._is_slowed and len(self._inpbuf) <= MOST_UNREAD and self._transport is not None:
            self._is_slowed = False
            self._transport.resume_reading()

    def send_packet(self, pkttype: int, *args: bytes, handler: Any = None) -> None:
        """asyncssh sends an empty IGNORE before each packet, against what CBC mode does (RFC 4251 9.3.1). There is none
        here, and each is one more to encrypt, to send and to wake up for (docs/performance.md)."""
        if pkttype != MSG_IGNORE:
            super().send_packet(pkttype, *args)  # without `handler`, which would log

    def log_sent_packet(self, *arguments: Any, **more: Any) -> None:
        """Nothing: the names and lengths of packets are made even when nobody reads them."""

    log_received_packet = log_sent_packet

    def _send(self, data: bytes) -> None:
        """Send it with what else is said in this turn of the loop: each system call costs as much as the cipher of
        several packets, and wakes up the far end (docs/performance.md)."""
        self._said.append(data)
        self._said_size += len(data)
        if self._said_size >= MOST_SAID:
            self._say()
        elif len(self._said) == 1:
            self._loop.call_soon(self._say)

    def _say(self) -> None:
        if not self._said:
            return
        data = self._said[0] if len(self._said) == 1 else b"".join(self._said)
        self._said, self._said_size = [], 0
        super()._send(data)
        transport = self._transport
        if "socket" not in self._holds or transport is None:
            return
        if transport.get_write_buffer_size() > MOST_UNSENT:
            self._force_close(asyncssh.ProtocolError("it does not read what it is sent"))

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
        if len(self._global_request_queue) >= MOST_REQUESTS:
            raise asyncssh.ProtocolError("too many requests at once")
        self._requests += 1
        super()._process_global_request(kind, number, packet)

    def _report_global_response(self, result: bool | bytes) -> None:
        self._answers += 1
        super()._report_global_response(result)
        while self._behind and self._behind[0][0] <= self._answers:
            self._behind.popleft()[1].set()

    async def earlier_requests(self) -> None:
        """Return when all requests that came before have been answered.

        sshd takes everything in order, and clients count on it: they ask for a port that it listens at, and for a
        connection to that port, without waiting in between.
        """
        if self._answers < self._requests:
            answered = asyncio.Event()
            self._behind.append((self._requests, answered))
            await answered.wait()

    def _exchange_expired(self) -> None:
        self._exchange_timer = None
        error = asyncssh.ProtocolError("the key exchange takes too long")
        self._send_disconnect(error.code, error.reason, error.lang)
        self._force_close(error)

    def disconnect(self, code: int, reason: str, lang: str = "en-US") -> None:
        """Say why before any channel is closed: OpenSSH's client leaves with its last channel, without reading on."""
        self._send_disconnect(code, reason, lang)
        self._force_close(None)

    def _force_close(self, exc: Exception | None) -> None:
        self._say()
        super()._force_close(exc)

    def _cleanup(self, exc: Exception | None) -> None:
        self._forget_timer()
        while self._behind:
            self._behind.popleft()[1].set()
        super()._cleanup(exc)

    def _forget_timer(self) -> None:
        if self._exchange_timer is not None:
            self._exchange_timer.cancel()
            self._exchange_timer = None

    def _hold(self, why: str) -> None:
        self._holds.add(why)
        for session in self._tied():
            session.hold("connection")

    def _release(self, why: str) -> None:
        """Let channels be written, one after the other until nothing can be sent again: that one is the last next time.

        Were all of them let loose, each would write all that it holds.
        """
        self._holds.discard(why)
        sessions = in_turn(self._tied(), self._next)
        for at, session in enumerate(sessions):
            if self._holds:
                self._next = sessions[at]
                return
            session.release("connection")

    def _tied(self) -> list[Tied]:
        sessions: list[Any] = [each._session for each in self._channels.values()]
        return [each for each in sessions if isinstance(each, Tied)]

    # The table of handlers names functions, not methods.
    _packet_handlers: ClassVar[Any] = {  # type: ignore[misc]
        **SSHConnection._packet_handlers,
        MSG_NEWKEYS: lambda self, *packet: self._process_newkeys(*packet),
        MSG_KEXINIT: lambda self, *packet: self._process_kexinit(*packet),
        MSG_GLOBAL_REQUEST: lambda self, *packet: self._process_global_request(*packet),
    }


class ServerConnection(Bounded, asyncssh.SSHServerConnection):
    """The client's."""

    certificate: Any = None  # the one that is looked at

    def _recv_version(self) -> bool:
        """A person, or a program that is none of SSH's, reads in words why it is not served."""
        line, is_whole, _ = self._inpbuf.partition(b"\n")
        if is_whole and not line.startswith((b"SSH-2.0-", b"SSH-1.99-")) and self._transport is not None:
            self._send(NO_SSH)
        return super()._recv_version()

    async def send_userauth_success(self) -> None:
        """Let the client in once the origin has let in the proxy: the origin's banner and refusal come before that."""
        self._cancel_login_timer()  # the origin has a timer of its own
        await self.bridge.authenticated()
        if self._transport is not None and not self._auth_complete:
            await super().send_userauth_success()

    async def _process_kexinit(self, kind: int, number: int, packet: Any) -> None:
        await super()._process_kexinit(kind, number, packet)
        if self._kex is not None:
            self._kex = Exchange(self._kex, self)  # type: ignore[assignment]

    async def _validate_openssh_certificate(self, username: str, cert: Any) -> Any:
        self.certificate = cert  # `SSHServer.validate_ca_key` is told its signer only
        return await super()._validate_openssh_certificate(username, cert)

    async def create_agent_connection(self, session_factory: Any, **more: Any) -> tuple[Any, Any]:
        """A channel to the client's agent; asyncssh's own wants a listener in the file system first."""
        chan = self.create_agent_channel(**more)
        return chan, await chan.open(session_factory)


class ClientConnection(Bounded, asyncssh.SSHClientConnection):
    """The origin's: what it opens for the client's agent and display goes to the client."""

    lost: Exception | None = None  # why it has ended
    principals: list[str] = []  # noqa: RUF012  # of the certificate that the origin was shown; replaced, never changed

    signs_at_once = True  # with the first key, unless signing has to be asked for
    _has_tried_none = False

    def try_next_auth(self, *, next_method: bool = False) -> None:
        """Show a key first. `none` is for origins that want no proof: asyncssh, like ssh, begins with it, to learn what
        may be tried, and every login would wait for that round trip."""
        if not self._has_tried_none:
            if self._auth is None:
                self._auth_methods = [b"publickey"]
            elif len(self._auth_methods) <= next_method:
                self._has_tried_none, next_method = True, False
                self._auth_methods = [b"none"]
        super().try_next_auth(next_method=next_method)

    async def send_userauth_request(self, method: bytes, *args: bytes, key: Any = None, trivial: bool = True) -> None:
        """Sign at once, rather than ask first whether the key would do: one more round trip (RFC 4252 7 allows it)."""
        auth: Any = self._auth
        if method == b"publickey" and key is None and self.signs_at_once and auth is not None:
            key, args, trivial = auth._keypair, (Boolean(True), *args[1:]), False
        await super().send_userauth_request(method, *args, key=key, trivial=trivial)

    async def _process_success(self, kind: int, number: int, packet: Any) -> None:
        """Let who has asked go on before anything else is read: the first connection to a port that the origin listens
        at may come right behind the answer, and asyncssh refuses it unless the port is known by then."""
        self._process_global_response(kind, number, packet)
        await asyncio.sleep(0)

    def will_forward_agent(self, wanted: bool) -> None:
        """Whether the next session channel asks for it."""
        self._agent_forward_path = "the client's" if wanted else None

    async def attach_x11_listener(self, chan: Any, display: Any, auth_path: Any, single_connection: bool) -> Any:
        """What the client has said of its display, which `create_session` was given as `x11_display`."""
        return display[:3]

    def detach_x11_listener(self, chan: Any) -> None:
        """Nothing was attached."""

    def _process_x11_open(self, packet: Any) -> tuple[Any, Awaitable[Any]]:
        host, port = packet.get_string().decode("utf-8", "replace"), packet.get_uint32()
        packet.check_end()
        chan = self.create_x11_channel()
        chan.set_inbound_peer_names(host, port)
        return chan, self.bridge.x11_wanted(host, port)

    def _process_auth_agent_at_openssh_dot_com_open(self, packet: Any) -> tuple[Any, Awaitable[Any]]:
        packet.check_end()
        return self.create_unix_channel(), self.bridge.agent_wanted()

    _packet_handlers: ClassVar[Any] = {  # type: ignore[misc]
        **Bounded._packet_handlers,
        MSG_REQUEST_SUCCESS: lambda self, *packet: self._process_success(*packet),
    }


Connection = TypeVar("Connection", ServerConnection, ClientConnection)


async def start(kind: type[Connection], bridge: Bridging, sock: socket.socket, options: Any) -> Connection:
    """A connection whose user is let in; asyncssh.Error or OSError. The socket is the connection's from now on."""
    loop = asyncio.get_running_loop()
    options.waiter = loop.create_future()

    def made() -> Connection:
        conn = kind(loop, options, wait="auth")
        conn.bridge = bridge
        return conn

    _, conn = await loop.create_connection(made, sock=sock)
    is_let_in = False
    try:
        await options.waiter
        is_let_in = True
        return conn
    finally:
        if not is_let_in:
            conn.abort()
            await conn.wait_closed()  # asyncio must let go of the socket before its owner closes it
