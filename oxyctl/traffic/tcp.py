"""TCP connections: opened and closed, or filled in one direction or both."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios

from oxyctl.traffic.config import DEFAULT_BULK_S, TcpTraffic
from oxyctl.traffic.drive import drive
from oxyctl.traffic.failures import Failed, failed
from oxyctl.traffic.tally import Tally
from oxyctl.traffic.targets import Endpoint, Url, parse_endpoint, parse_url

READ_BYTES = 256 << 10
STATUS_LINE_BYTES = len("HTTP/1.1 200")
ENDLESS_BYTES = 1 << 40  # the maximum of the http service's /bytes/N


async def run(traffic: TcpTraffic, address: str, tally: Tally) -> None:
    """Connect again and again, or move bytes over `concurrency` connections for some time."""
    target = TcpTarget(traffic, address)
    if traffic.mode == "connect":
        await drive(traffic, target.connect_once, tally)
    else:
        await _fill(traffic, target, tally)


class TcpTarget:
    """The destination of connections, and the HTTP request that opens them, if any."""

    def __init__(self, traffic: TcpTraffic, address: str) -> None:
        url = parse_url(traffic.target) if "://" in traffic.target else None
        self.endpoint: Endpoint = url.endpoint if url else parse_endpoint(traffic.target)
        self._address = address
        self.request = _request(url, traffic.mode) if url else b""

    async def connect(self) -> socket.socket:
        """A connected socket. OSError."""
        sock = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (self._address, self.endpoint.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def connect_once(self, number: int) -> None:
        """One exchange: open and close a connection."""
        (await self.connect()).close()


def _request(url: Url, mode: str) -> bytes:
    """The HTTP request whose body, in the measured direction, is endless."""
    host = f"Host: {url.host_header}\r\nUser-Agent: oxyctl\r\n"
    if mode == "down":
        path = url.path if url.path != "/" else f"/bytes/{ENDLESS_BYTES}"
        return f"GET {path} HTTP/1.1\r\n{host}\r\n".encode()
    path = url.path if url.path != "/" else ("/echo" if mode == "both" else "/sink?sha256=no")
    return f"POST {path} HTTP/1.1\r\n{host}Content-Length: {ENDLESS_BYTES}\r\n\r\n".encode()


async def _fill(traffic: TcpTraffic, target: TcpTarget, tally: Tally) -> None:
    """Run streams until the time is over, or each has ended by itself."""
    streams = [_Stream(traffic, target, tally) for _ in range(traffic.slots)]
    tasks = [asyncio.create_task(stream.run()) for stream in streams]
    try:
        await asyncio.wait(tasks, timeout=traffic.duration_s or DEFAULT_BULK_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for stream in streams:
            stream.finish()
    for task in tasks:
        if not task.cancelled():
            task.result()


class _Stream:
    """One connection filled with data. It succeeds if bytes were moved without an error."""

    def __init__(self, traffic: TcpTraffic, target: TcpTarget, tally: Tally) -> None:
        self._traffic, self._target, self._tally = traffic, target, tally
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._handshake_ms = 0.0
        self._error: Exception | None = None
        self._moved = 0
        self._head = b""  # the first bytes of an HTTP response: its status

    async def run(self) -> None:
        """Move bytes until cancelled, or until the other end closes."""
        self._tally.sent += 1
        begin = self._loop.time()
        try:
            async with asyncio.timeout(self._traffic.timeout_s):
                self._socket = await self._target.connect()
            self._handshake_ms = (self._loop.time() - begin) * 1e3
            await self._move(self._socket)
        except (OSError, Failed) as error:
            self._error = error

    def finish(self) -> None:
        """Close the connection and count it, without bytes that are still in flight."""
        if self._socket is not None:
            if self._traffic.mode != "down":
                self._tally.bytes_sent -= min(_unacknowledged_bytes(self._socket), self._moved)
            self._socket.close()
        if self._error is None and self._moved:
            self._tally.succeed(self._handshake_ms)
        elif self._error is not None or self._socket is not None:
            failure = failed(self._error or Failed("idle", "connected, but no byte was transferred"))
            self._tally.fail(failure.kind, failure.text)

    async def _move(self, sock: socket.socket) -> None:
        await self._loop.sock_sendall(sock, self._target.request)
        tasks = {asyncio.create_task(self._read(sock))}  # always: an unread echo would stall
        if self._traffic.mode != "down":
            tasks.add(asyncio.create_task(self._write(sock)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _write(self, sock: socket.socket) -> None:
        piece = memoryview(bytes(self._traffic.size))
        while True:
            await self._loop.sock_sendall(sock, piece)
            self._moved += len(piece)
            self._tally.bytes_sent += len(piece)

    async def _read(self, sock: socket.socket) -> None:
        buffer = bytearray(READ_BYTES)
        while count := await self._loop.sock_recv_into(sock, buffer):
            if self._target.request and len(self._head) < STATUS_LINE_BYTES:
                self._head += bytes(buffer[: min(count, STATUS_LINE_BYTES)])
                _check_status(self._head)
            self._moved += count
            self._tally.bytes_received += count


def _check_status(head: bytes) -> None:
    """Raise Failed if `head` begins an HTTP error: the requested data will not follow."""
    status = head[9:STATUS_LINE_BYTES]
    if len(status) == 3 and status[:1] in (b"4", b"5"):
        raise Failed(f"http_{status.decode('latin-1')}", f"the server answered with status {status.decode('latin-1')}")


def _unacknowledged_bytes(sock: socket.socket) -> int:
    """Bytes in the kernel that the peer has not acknowledged (SIOCOUTQ, tcp(7))."""
    with contextlib.suppress(OSError):
        return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])
    return 0
