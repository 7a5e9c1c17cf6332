"""A UDP socket that answers each datagram from the address to which it was sent."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

IP_PKTINFO = 8  # linux/in.h; `socket` does not name it in every supported Python
MAX_DATAGRAM_BYTES = 65_535
BUDGET = 64  # datagrams per wake-up, so that one busy socket does not starve the others

Ancillary = list[tuple[int, int, bytes]]


class UdpSocket:
    """Sends `answer(datagram)`, unless that is None. Stops reading, rather than drop answers, while it cannot send."""

    def __init__(self, sock: socket.socket, answer: Callable[[bytes], bytes | None]) -> None:
        self._sock, self._answer = sock, answer
        self._loop = asyncio.get_running_loop()
        self._unsent: tuple[bytes, Ancillary, object] | None = None
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self._loop.add_reader(sock, self._receive)

    def close(self) -> None:
        """Close the socket; datagrams not answered by now are dropped."""
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()

    def _receive(self) -> None:
        for _ in range(BUDGET):
            try:
                data, ancillary, _, peer = self._sock.recvmsg(MAX_DATAGRAM_BYTES, 64)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an earlier answer
            answer = self._answer(data)
            if answer is not None and not self._send(answer, _answer_from(ancillary), peer):
                return

    def _send(self, data: bytes, ancillary: Ancillary, peer: object) -> bool:
        try:
            self._sock.sendmsg([data], ancillary, 0, peer)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                self._unsent = (data, ancillary, peer)
                self._loop.remove_reader(self._sock)
                self._loop.add_writer(self._sock, self._resume)
                return False
        return True

    def _resume(self) -> None:
        unsent, self._unsent = self._unsent, None
        self._loop.remove_writer(self._sock)
        if unsent is None or self._send(*unsent):
            self._loop.add_reader(self._sock, self._receive)


def _answer_from(ancillary: Ancillary) -> Ancillary:
    """The control message that sends the answer from the queried address (ip(7), RFC 3542 section 6.2)."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            # ipi_ifindex 0: routing chooses; ipi_spec_dst is the source address
            return [(level, kind, struct.pack("=I4s4x", 0, data[4:8]))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and data[0] != 0xFF:
            return [(level, kind, data[:16] + bytes(4))]
    return []
