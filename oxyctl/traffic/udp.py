"""UDP datagrams to an echo service: round trips, loss, order, jitter."""

from __future__ import annotations

import asyncio
import os
import struct

from oxyctl.traffic.config import UdpTraffic
from oxyctl.traffic.datagrams import DatagramSocket, Outstanding
from oxyctl.traffic.drive import drive
from oxyctl.traffic.tally import Tally
from oxyctl.traffic.targets import parse_endpoint

_HEAD = struct.Struct("!4sI")  # which run, which datagram


async def run(traffic: UdpTraffic, address: str, tally: Tally) -> None:
    """Send datagrams until there have been enough."""
    loop = asyncio.get_running_loop()
    outstanding = Outstanding(tally)
    transport, sock = await loop.create_datagram_endpoint(
        lambda: UdpSocket(outstanding), remote_addr=(address, parse_endpoint(traffic.target).port)
    )
    rest = bytes(traffic.size - _HEAD.size)

    async def exchange(number: int) -> None:
        data = _HEAD.pack(sock.run, number & 0xFFFF_FFFF) + rest
        sock.send(data)
        tally.bytes_sent += len(data)
        answer = await outstanding.answer(number)
        tally.bytes_received += len(answer)

    try:
        await drive(traffic, exchange, tally)
    finally:
        outstanding.report()
        transport.close()


class UdpSocket(DatagramSocket):
    """A socket whose datagrams begin with four random bytes, the same for the whole run, and a number."""

    def __init__(self, outstanding: Outstanding) -> None:
        super().__init__(outstanding)
        self.run = os.urandom(4)

    def number_of(self, data: bytes) -> int | None:
        """Match by the first eight bytes."""
        run, number = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0)
        return number if run == self.run else None
