"""What the datagram kinds share: matching answers to datagrams, and measuring order and jitter."""

from __future__ import annotations

import asyncio
from typing import cast

from oxyctl.traffic.failures import Failed
from oxyctl.traffic.tally import Tally


class Outstanding:
    """Datagrams that wait for their answers, by sequence number, oldest first."""

    def __init__(self, tally: Tally) -> None:
        self._loop = asyncio.get_running_loop()
        self._tally = tally
        self._waiting: dict[int, tuple[float, asyncio.Future[bytes]]] = {}
        self._timed_out: set[int] = set()
        self._highest = -1
        self._last_rtt_s: float | None = None
        self._jitter_s = 0.0
        self._reordered = self._duplicates = 0

    async def answer(self, number: int) -> bytes:
        """The answer to `number`, which is being sent now. Its time-out cancels this. Failed: it was refused."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[number] = self._loop.time(), future
        try:
            return await future
        finally:
            if self._waiting.pop(number, None) is not None:
                self._timed_out.add(number)

    def resolve(self, number: int, data: bytes) -> None:
        """Record an answer to `number`: the first one, a duplicate, or one that came after its time-out."""
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            self._timed_out.discard(number) if number in self._timed_out else self._duplicate()
            return
        sent, future = waiting
        self._reordered += number < self._highest
        self._highest = max(self._highest, number)
        self._note_rtt(self._loop.time() - sent)
        if not future.done():
            future.set_result(data)

    def fail(self, failure: Failed, number: int | None = None) -> None:
        """Fail `number`; without a number, the oldest, since an ICMP error on a socket does not say which one."""
        chosen = number if number is not None else next(iter(self._waiting), None)
        if chosen is not None and (waiting := self._waiting.pop(chosen, None)) and not waiting[1].done():
            waiting[1].set_exception(failure)

    def report(self) -> None:
        """Add order, duplicates and jitter to the report."""
        self._tally.extra |= {
            "reordered": self._reordered,
            "duplicates": self._duplicates,
            "jitter_ms": None if self._last_rtt_s is None else round(self._jitter_s * 1e3, 4),
        }

    def _duplicate(self) -> None:
        self._duplicates += 1

    def _note_rtt(self, rtt_s: float) -> None:
        if self._last_rtt_s is not None:
            self._jitter_s += (abs(rtt_s - self._last_rtt_s) - self._jitter_s) / 16  # RFC 3550 6.4.1
        self._last_rtt_s = rtt_s


class DatagramSocket(asyncio.DatagramProtocol):
    """A connected UDP socket that matches answers by `number_of`, which returns None for foreign datagrams."""

    def __init__(self, outstanding: Outstanding) -> None:
        self.outstanding = outstanding
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)  # asyncio's own classes only resemble it

    def datagram_received(self, data: bytes, addr: object) -> None:
        if (number := self.number_of(data)) is not None:
            self.outstanding.resolve(number, data)

    def error_received(self, exc: Exception) -> None:
        from oxyctl.traffic.failures import failed

        self.outstanding.fail(failed(exc))

    def number_of(self, data: bytes) -> int | None:
        """The number of the datagram that `data` answers; None: it answers none."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Send one datagram."""
        assert self.transport is not None
        self.transport.sendto(data)
