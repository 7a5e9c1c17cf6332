"""DNS queries over UDP or TCP."""

from __future__ import annotations

import asyncio
import os
import struct

from oxyctl.traffic.config import DNS_PORT, DnsTraffic
from oxyctl.traffic.datagrams import DatagramSocket, Outstanding
from oxyctl.traffic.drive import Exchange, drive
from oxyctl.traffic.failures import Failed, Unusable
from oxyctl.traffic.messages import Malformed, Response, decode_response, encode_query
from oxyctl.traffic.tally import Tally
from oxyctl.traffic.targets import parse_endpoint

_LENGTH = struct.Struct("!H")  # before each message over TCP (RFC 1035 4.2.2)
_WRAP = 1 << 16


async def run(traffic: DnsTraffic, address: str, tally: Tally) -> None:
    """Send queries until there have been enough. A code other than NOERROR is a failure."""
    try:
        query = encode_query(0, traffic.query, traffic.type)[2:]  # the identifier goes before it
    except ValueError as error:
        raise Unusable(str(error)) from None
    port = parse_endpoint(traffic.target, DNS_PORT).port
    record = _AnswerRecorder(traffic, tally)
    if traffic.over == "tcp":
        await drive(traffic, _tcp_exchange(query, address, port, record), tally)
        return
    outstanding = Outstanding(tally)
    loop = asyncio.get_running_loop()
    transport, sock = await loop.create_datagram_endpoint(lambda: DnsSocket(outstanding), remote_addr=(address, port))
    try:
        await drive(traffic, _udp_exchange(query, sock, record), tally)
    finally:
        outstanding.report()
        transport.close()


class DnsSocket(DatagramSocket):
    """A UDP socket for queries, whose identifiers count up from a random number."""

    def __init__(self, outstanding: Outstanding) -> None:
        super().__init__(outstanding)
        self._first = int.from_bytes(os.urandom(2), "big")
        self._numbers: dict[int, int] = {}

    def identify(self, number: int) -> int:
        """The identifier for the query `number`."""
        ident = (self._first + number) % _WRAP
        self._numbers[ident] = number
        return ident

    def number_of(self, data: bytes) -> int | None:
        """Match by identifier."""
        return self._numbers.get(int.from_bytes(data[:2], "big"))


class _AnswerRecorder:
    """Counts an answer in the tally."""

    def __init__(self, traffic: DnsTraffic, tally: Tally) -> None:
        self._traffic, self._tally = traffic, tally

    def __call__(self, query: bytes, data: bytes) -> None:
        self._tally.bytes_sent += len(query)
        self._tally.bytes_received += len(data)
        try:
            response = decode_response(data)
        except Malformed as error:
            raise Failed("malformed", f"not a DNS response: {error}") from None
        if query[:2] != data[:2]:
            raise Failed("malformed", "the response to another query")
        self._tally.statuses[response.code] += 1
        if self._traffic.detail:
            self._tally.detail = _detail(response)
        if response.code != "noerror":
            raise Failed(response.code, f"the server answered {response.code.upper()}")


def _detail(response: Response) -> dict[str, object]:
    answers = [answer._asdict() for answer in response.answers]
    return {"code": response.code, "truncated": response.is_truncated, "answers": answers}


def _udp_exchange(query: bytes, sock: DnsSocket, record: _AnswerRecorder) -> Exchange:
    async def exchange(number: int) -> None:
        message = sock.identify(number).to_bytes(2, "big") + query
        sock.send(message)
        record(message, await sock.outstanding.answer(number))

    return exchange


def _tcp_exchange(query: bytes, address: str, port: int, record: _AnswerRecorder) -> Exchange:
    async def exchange(number: int) -> None:
        message = os.urandom(2) + query
        reader, writer = await asyncio.open_connection(address, port)
        try:
            writer.write(_LENGTH.pack(len(message)) + message)
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            record(message, await reader.readexactly(length))
        except asyncio.IncompleteReadError:
            raise Failed("closed", "the connection was closed without a whole response") from None
        finally:
            writer.transport.abort()

    return exchange
