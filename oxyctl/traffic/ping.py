"""ICMP and ICMPv6 echo, by a raw socket, or by a ping socket where raw sockets are not permitted (icmp(7))."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct

from oxyctl.traffic.config import PingTraffic
from oxyctl.traffic.datagrams import Outstanding
from oxyctl.traffic.drive import drive
from oxyctl.traffic.failures import Failed, Unusable, failed
from oxyctl.traffic.tally import Tally
from proxy.wire.checksum import checksum

_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_WRAP = 1 << 16
_MAX_MESSAGE_BYTES = 65_535
_QUOTE = 8  # an ICMP error quotes the packet behind its own header


class Family:
    """The numbers of ICMP (RFC 792) or ICMPv6 (RFC 4443)."""

    def __init__(self, family: int, protocol: int, request: int, reply: int, errors: dict[int, str]) -> None:
        self.family, self.protocol, self.request, self.reply, self.errors = family, protocol, request, reply, errors


V4 = Family(socket.AF_INET, socket.IPPROTO_ICMP, 8, 0, {3: "unreachable", 11: "ttl_exceeded", 12: "parameter_problem"})
V6 = Family(
    socket.AF_INET6,
    socket.IPPROTO_ICMPV6,
    128,
    129,
    {1: "unreachable", 2: "too_big", 3: "ttl_exceeded", 4: "parameter_problem"},
)


async def run(traffic: PingTraffic, address: str, tally: Tally) -> None:
    """Send echo requests until there have been enough."""
    pinger = Pinger(V6 if ":" in address else V4, address, Outstanding(tally))
    payload = bytes(traffic.size)

    async def exchange(number: int) -> None:
        pinger.send(number, payload)
        tally.bytes_sent += len(payload)
        answer = await pinger.outstanding.answer(number)
        tally.bytes_received += len(answer)

    try:
        await drive(traffic, exchange, tally)
    finally:
        pinger.outstanding.report()
        pinger.close()


class Pinger:
    """One socket. Sequence numbers have 16 bits, which limits the requests under way at once."""

    def __init__(self, family: Family, address: str, outstanding: Outstanding) -> None:
        self.outstanding = outstanding
        self._family, self._address = family, address
        self._sequence: dict[int, int] = {}  # sequence number to the number of the exchange
        self._socket, self._is_raw = _open(family)
        self._identifier = int.from_bytes(os.urandom(2), "big")
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._receive)

    def close(self) -> None:
        """Stop receiving."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def send(self, number: int, payload: bytes) -> None:
        """Send one echo request. OSError."""
        sequence = number % _WRAP
        self._sequence[sequence] = number
        head = _ECHO.pack(self._family.request, 0, 0, self._identifier, sequence)
        if self._family is V4:  # the kernel computes ICMPv6's checksum, which covers addresses that it chooses
            head = _ECHO.pack(self._family.request, 0, checksum(head + payload), self._identifier, sequence)
        try:
            self._socket.sendto(head + payload, (self._address, 0))
        except BlockingIOError:
            raise Failed("queue_full", "the socket's queue is full") from None

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data, sender = self._socket.recvfrom(_MAX_MESSAGE_BYTES)
                except BlockingIOError:
                    raise
                except OSError as error:
                    self.outstanding.fail(failed(error))
                    continue
                self._handle_message(
                    _without_ip_header(data) if self._is_raw and self._family is V4 else data, sender[0]
                )

    def _handle_message(self, message: bytes, sender: str) -> None:
        if len(message) < _ECHO.size:
            return
        kind = message[0]
        if kind == self._family.reply and sender.partition("%")[0] == self._address:
            if (number := self._number(message, self._family.reply)) is not None:
                self.outstanding.resolve(number, message[_ECHO.size :])
        elif kind in self._family.errors:
            quoted = message[_QUOTE:]
            quoted = _without_ip_header(quoted) if self._family is V4 else quoted[40:]
            if (number := self._number(quoted, self._family.request)) is not None:
                word = self._family.errors[kind]
                self.outstanding.fail(Failed(word, f"{word.replace('_', ' ')}, says {sender}"), number)

    def _number(self, message: bytes, kind: int) -> int | None:
        """The number of the exchange that an echo message answers. A ping socket receives only its own messages."""
        if len(message) < _ECHO.size:
            return None
        received_kind, _, _, identifier, sequence = _ECHO.unpack_from(message)
        is_ours = received_kind == kind and (identifier == self._identifier or not self._is_raw)
        return self._sequence.get(sequence) if is_ours else None


def _open(family: Family) -> tuple[socket.socket, bool]:
    refusal: OSError | None = None
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        try:
            return socket.socket(family.family, kind | socket.SOCK_NONBLOCK, family.protocol), kind == socket.SOCK_RAW
        except OSError as error:
            refusal = error
    raise Unusable(f"no ICMP socket: {refusal}; CAP_NET_RAW is needed, or sysctl net.ipv4.ping_group_range")


def _without_ip_header(packet: bytes) -> bytes:
    return packet[(packet[0] & 0x0F) * 4 :] if packet else b""
