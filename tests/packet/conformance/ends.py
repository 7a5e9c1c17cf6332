"""TCP by hand: each end of a connection sends and expects segments, by sequence numbers relative to its SYN."""

from __future__ import annotations

from typing import Any, Protocol

from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw

from tests.packet.conformance.wires import SCRIPTED, OriginNetwork, ScriptedClient, ScriptedStage
from tests.packets import decode, network, pack, parsed

MODULUS = 1 << 32


class Wire(Protocol):
    """Where segments go and come from."""

    def send(self, packet: bytes) -> None: ...

    def next(self, is_wanted: Any) -> bytes: ...


class End:
    """One end. `next` is what it will send, `seen` what it has received in order: both 0 before the SYN."""

    def __init__(self, wire: Wire, version: int, here: tuple[str, int], there: tuple[str, int], isn: int) -> None:
        self.wire, self.version, self.here, self.there, self.isn = wire, version, here, there, isn
        self.their_isn: int | None = None
        self.next = self.seen = 0
        self.mss = 0  # as the other end offered in its SYN
        self.window = 65_535

    def __repr__(self) -> str:
        return f"{self.here} sent {self.next} seen {self.seen}"

    def sends(self, flags: str, payload: bytes = b"", *, seq: int | None = None, ack: int | None = None,
              ttl: int = 64, **fields: Any) -> None:  # fmt: skip
        """A segment; without `seq` the next one in order. `fields`: of scapy's TCP."""
        at = self.next if seq is None else seq
        seen = self.seen if ack is None else ack
        their = (self.their_isn or 0) + seen if "A" in flags else 0
        if seq is None:
            self.next += len(payload) + ("S" in flags) + ("F" in flags)
        segment = TCP(sport=self.here[1], dport=self.there[1], flags=flags, seq=(self.isn + at) % MODULUS,
                      ack=their % MODULUS, **{"window": self.window, **fields})  # fmt: skip
        self.wire.send(bytes(network(self.version, self.here[0], self.there[0], ttl=ttl) / segment / Raw(payload)))

    def segment(self) -> Packet:
        """The next one that arrives for this end."""
        return decode(self.wire.next(self._is_mine))[TCP]

    def expects(self, flags: str, payload: bytes | None = None, *, seq: int | None = None,
                ack: int | None = None) -> Packet:  # fmt: skip
        """The next segment, which must be this: the next in order unless `seq` says otherwise, and acknowledge all."""
        segment = self.segment()
        data = bytes(segment.payload)
        at = 0 if "S" in flags else self.seen if seq is None else seq
        if "S" in flags:
            self.their_isn = segment.seq
            self.mss = dict(segment.options).get("MSS", 0)
        got = str(segment.flags), self.relative(segment.seq, self.their_isn), self.relative(segment.ack, self.isn)
        wanted = flags, at, (self.next if ack is None else ack) if "A" in flags else got[2]
        if "R" in flags and "A" in flags and self.their_isn is None:
            got, wanted = (got[0], segment.seq, got[2]), (flags, 0, wanted[2])
        assert got == wanted, f"{self!r}: {got}, not {wanted}, {data[:40]!r}"
        assert payload is None or data == payload
        self.seen = max(self.seen, at + len(data) + ("S" in flags) + ("F" in flags))
        return segment

    def reads(self, size: int, *, acknowledges: bool = True) -> bytes:
        """So many bytes, in order, in however many segments."""
        data = b""
        while len(data) < size:
            segment = self.segment()
            part, at = bytes(segment.payload), self.relative(segment.seq, self.their_isn)
            if at != self.seen or not part:
                continue  # a repetition, or a bare acknowledgement
            data += part
            self.seen += len(part) + bool(segment.flags.F)
            if acknowledges:
                self.sends("A")
        return data

    def awaits(self, flag: str) -> Packet:
        """The next segment that bears `flag`; others, bare acknowledgements say, do not matter."""
        while flag not in str((segment := self.segment()).flags):
            self._note(segment)
        self._note(segment)
        return segment

    def _note(self, segment: Packet) -> None:
        """Count what is next in order."""
        if self.relative(segment.seq, self.their_isn) == self.seen:
            self.seen += len(bytes(segment.payload)) + bool(segment.flags.F)

    @staticmethod
    def relative(number: int, isn: int | None) -> int:
        """A sequence number as counted from its SYN; below zero when it is before."""
        value = (number - (isn or 0)) % MODULUS
        return value - MODULUS if value > MODULUS // 2 else value

    def _is_mine(self, packet: bytes) -> bool:
        found = parsed(packet)
        if found.protocol != 6 or found.is_fragment:
            return False
        ports = packet[found.l4 : found.l4 + 4]
        wanted = self.there[1].to_bytes(2, "big") + self.here[1].to_bytes(2, "big")
        return ports == wanted and (found.source, found.destination) == (pack(self.there[0]), pack(self.here[0]))


class OriginEnd(End):
    """The origin's end: it learns from the proxy's SYN who is there."""

    def __init__(self, wire: OriginNetwork, version: int, here: tuple[str, int], isn: int) -> None:
        super().__init__(wire, version, here, ("", 0), isn)

    def _is_mine(self, packet: bytes) -> bool:
        found = parsed(packet)
        if found.protocol != 6 or found.destination != pack(self.here[0]):
            return False
        if int.from_bytes(packet[found.l4 + 2 : found.l4 + 4], "big") != self.here[1]:
            return False
        sport = int.from_bytes(packet[found.l4 : found.l4 + 2], "big")
        if not self.there[1]:
            if packet[found.l4 + 13] & 0x17 != 0x02:
                return False  # of an earlier connection
            self.there = decode(packet).src, sport
        return sport == self.there[1]

    def accepts(self, **fields: Any) -> None:
        """The handshake with the proxy, from its SYN on."""
        self.expects("S")
        self.sends("SA", **{"options": [("MSS", 1460)], **fields})
        self.expects("A", b"")


class Connection:
    """A client's end and the origin's end of one flow."""

    def __init__(self, stage: ScriptedStage, client: ScriptedClient, version: int, *, sport: int | None = None,
                 dport: int | None = None, isn: int = 1_000_000, dst: str | None = None) -> None:  # fmt: skip
        self.stage, self.tunnel, self.version = stage, client, version
        self.sport, self.dport = sport or stage.port, dport or stage.port
        there = dst or SCRIPTED[version], self.dport
        self.client = End(client, version, (client.addresses[version], self.sport), there, isn)
        self.origin = OriginEnd(stage.network, version, there, 0xFFFF_FF00)  # it soon wraps around

    def established(self, mss: int = 1200, **fields: Any) -> tuple[End, OriginEnd]:
        """Both ends, after a handshake."""
        client, origin = self.client, self.origin
        client.sends("S", **{"options": [("MSS", mss)], **fields})
        origin.accepts()
        client.expects("SA", ack=1)
        client.sends("A")
        return client, origin

    @property
    def records(self) -> list[Any]:
        """Of the ended flows of this connection."""
        return self.stage.ended(src=self.client.here[0], src_port=self.sport, dst_port=self.dport)
