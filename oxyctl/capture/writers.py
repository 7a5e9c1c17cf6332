"""Formats packets: as blocks of a pcapng file, or as lines of text."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from oxyctl.capture import pcapng
from oxyctl.capture.printing import describe
from oxyctl.capture.ring import Packet
from oxyctl.capture.sinks import Sink
from oxyctl.capture.targets import Interface
from oxyctl.render.units import time_text

ETHERNET_BYTES = 14
APPLICATION = "oxyctl capture"
OFFLOAD_NOTE = (
    "packets may exceed the MTU and have incomplete TCP and UDP checksums: "
    "segmentation and checksum offload follow this point"
)


def head(interfaces: Sequence[Interface], lab: str, snaplen: int, filter_: str | None) -> list[bytes]:
    """The blocks at the start of a file."""
    system = os.uname()
    blocks = [pcapng.section(APPLICATION, f"{system.sysname} {system.release}", f"lab {lab}")]
    return [*blocks, *(description(each, snaplen, filter_) for each in interfaces)]


def description(interface: Interface, snaplen: int, filter_: str | None) -> bytes:
    """The description of one interface; it must come before the interface's first packet."""
    tenant = f", tenant {interface.tenant}" if interface.tenant else ""
    text = f"node {interface.node}{tenant}; MTU {interface.mtu}; {OFFLOAD_NOTE}"
    return pcapng.interface(interface.link_type, snaplen, interface.title, text, filter_)


class PcapngWriter:
    """Packets as blocks, each with a comment that names its node and tenant."""

    def __init__(self, sink: Sink, interfaces: Sequence[Interface]) -> None:
        """`head` has already been written to `sink`."""
        self.sink = sink
        self.before_packets: Callable[[], None] = lambda: None  # secrets must come before the packets they decrypt
        self._options = [_options(each) for each in interfaces]
        self._max_length = [_max_length(each) for each in interfaces]

    def add(self, interface: Interface, described: bytes) -> None:
        """Add an interface, described by this block."""
        self._options.append(_options(interface))
        self._max_length.append(_max_length(interface))
        self.sink.extend_head(described)

    def secrets(self, lines: bytes) -> None:
        """Write the secrets that decrypt later packets."""
        self.sink.extend_head(pcapng.tls_secrets(lines))

    def packets(self, packets: Sequence[Packet]) -> None:
        """Write packets."""
        self.before_packets()
        options, longest = self._options, self._max_length
        self.sink.write(
            [
                pcapng.packet(number, at, data, length, options[number][is_outgoing, length > longest[number]])
                for at, number, data, length, is_outgoing, _ in packets
            ]
        )

    def close(self, start_ns: int, end_ns: int, counts: Sequence[pcapng.Statistics]) -> None:
        """End the file with the statistics of each interface."""
        self.sink.close([pcapng.statistics(number, start_ns, end_ns, each) for number, each in enumerate(counts)])


class LineWriter:
    """One line for each packet."""

    def __init__(self, sink: Sink, interfaces: Sequence[Interface]) -> None:
        self.sink, self._interfaces = sink, list(interfaces)
        self._width = max((len(each.title) for each in interfaces), default=0)

    def add(self, interface: Interface, described: bytes) -> None:
        """Add an interface; lines show its name."""
        self._interfaces.append(interface)
        self._width = max(self._width, len(interface.title))

    def packets(self, packets: Sequence[Packet]) -> None:
        """Print packets."""
        self.sink.write([self._line(packet) for packet in packets])

    def close(self, start_ns: int, end_ns: int, counts: Sequence[pcapng.Statistics]) -> None:
        """Do nothing: the report prints the numbers."""
        self.sink.close([])

    def _line(self, packet: Packet) -> bytes:
        interface = self._interfaces[packet.number]
        when = f"{time_text(packet.time_ns)}.{packet.time_ns // 1000 % 1_000_000:06}"
        direction = "out" if packet.is_outgoing else "in "
        what = describe(packet.data, packet.length, is_ethernet=interface.is_ethernet)
        return f"{when} {interface.title:{self._width}} {direction} {what}\n".encode()


def _max_length(interface: Interface) -> int:
    """Length of the longest packet that fits the MTU, in bytes."""
    return interface.mtu + (ETHERNET_BYTES if interface.is_ethernet else 0)


def _options(interface: Interface) -> dict[tuple[bool, bool], bytes]:
    """Packet options, by 'is outgoing' and 'is longer than the MTU'."""
    comment = f"node {interface.node}" + (f", tenant {interface.tenant}" if interface.tenant else "")
    return {
        (is_outgoing, is_long): pcapng.packet_options(
            comment + (", to be segmented" if is_long else ""),
            pcapng.OUTBOUND if is_outgoing else pcapng.INBOUND,
        )
        for is_outgoing in (False, True)
        for is_long in (False, True)
    }
