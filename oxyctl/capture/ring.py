"""One captured interface: a packet socket whose packets the kernel writes into shared memory (packet(7)).

A ring (TPACKET_V3) and not `recvmsg`: its memory is not bound by net.core.rmem_max, which leaves a rootless socket
room for five super-packets of 64 KB, and a block of packets costs one wake-up.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from oxyctl.capture.filters import Program, attach
from oxyctl.capture.targets import Interface

# linux/if_packet.h
SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, TPACKET_V3 = 5, 6, 10, 2
STATUS_USER, STATUS_CHECKSUM_NOT_READY, STATUS_VLAN = 1 << 0, 1 << 3, 1 << 4
ETH_P_8021Q = 0x8100
OUTGOING = 4
ETH_P_ALL = 3

FRAME_BYTES = 2048  # unused by version 3, but must divide a block
BLOCK_BYTES = 128 << 10  # one super-packet of 64 KB and its headers always fit
MEMORY_BYTES = 64 << 20  # of all rings together, within the limits for one
MIN_BLOCKS, MAX_BLOCKS = 4, 64
RETIRE_MS = 20  # how long the kernel holds back a block that is not full; it may be twice that

_block = struct.Struct("=8xIII")  # status, packets, offset of the first
# next packet, seconds, ns, captured, length, status, where its data is, hash, VLAN tag and its type
_packet = struct.Struct("=IIIIIIH2xIIH")
_kind = struct.Struct("=10xB")  # sockaddr_ll: the direction
_ADDRESS_OFFSET = 48  # after the header, aligned to 16
_statistics = struct.Struct("=III")


class Packet(NamedTuple):
    """One captured packet; sorts by time."""

    time_ns: int
    number: int  # of the interface
    data: bytes
    length: int  # before it was cut to the snap length
    is_outgoing: bool
    has_checksum: bool  # False: left to a device that completes it


class Ring:
    """The packets of `interface`, once started."""

    def __init__(self, interface: Interface, sock: socket.socket, number: int, blocks: int) -> None:
        self.interface, self.socket, self.number = interface, sock, number
        self.received = self.dropped = 0  # the kernel's counts; `received` includes dropped packets
        self.taken = 0  # packets returned by `read`
        self._blocks, self._current = blocks, 0
        sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        size = blocks * BLOCK_BYTES
        request = struct.pack("=7I", BLOCK_BYTES, blocks, FRAME_BYTES, size // FRAME_BYTES, RETIRE_MS, 0, 0)
        sock.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        self._memory = mmap.mmap(sock.fileno(), size)

    def start(self, program: Program) -> None:
        """Receive what `program` accepts, from now on. OSError: the interface is gone."""
        if program:
            attach(self.socket, program)
        self.socket.bind((self.interface.name, ETH_P_ALL))

    @property
    def is_bound(self) -> bool:
        """Whether its interface still exists; False before `start`."""
        return bool(self.socket.getsockname()[0])

    def read(self) -> list[Packet]:
        """The packets in the blocks that the kernel has filled; each block is returned to it once read."""
        memory, packets = self._memory, list[Packet]()
        for _ in range(self._blocks):
            start = self._current * BLOCK_BYTES
            status, count, offset = _block.unpack_from(memory, start)
            if not status & STATUS_USER:
                break
            packets += self._packets(start + offset, count)
            memory[start + 8 : start + 12] = bytes(4)  # back to the kernel
            self._current = (self._current + 1) % self._blocks
        self.taken += len(packets)
        return packets

    def _packets(self, at: int, count: int) -> Iterator[Packet]:
        memory, number, is_ethernet = self._memory, self.number, self.interface.is_ethernet
        for _ in range(count):
            step, seconds, ns, size, length, status, offset, _, tag, tag_type = _packet.unpack_from(memory, at)
            (direction,) = _kind.unpack_from(memory, at + _ADDRESS_OFFSET)
            data = memory[at + offset : at + offset + size]
            if status & STATUS_VLAN and is_ethernet:  # the kernel took the tag out of the frame
                data = data[:12] + struct.pack("!HH", tag_type or ETH_P_8021Q, tag) + data[12:]
                length += 4
            is_complete = not status & STATUS_CHECKSUM_NOT_READY
            yield Packet(seconds * 1_000_000_000 + ns, number, data, length, direction == OUTGOING, is_complete)
            at += step

    def count(self) -> None:
        """Update `received` and `dropped`: the kernel resets its counters when they are read."""
        raw = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _statistics.size)
        received, dropped, _ = _statistics.unpack(raw)
        self.received += received
        self.dropped += dropped

    def acknowledge_error(self) -> int:
        """Return and clear the socket's error: an interface that went down may come up again."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        """Free the memory."""
        self._memory.close()
        self.socket.close()


def blocks_for(interfaces: int) -> int:
    """The number of blocks of each ring, for this many rings."""
    return max(MIN_BLOCKS, min(MAX_BLOCKS, MEMORY_BYTES // BLOCK_BYTES // max(1, interfaces)))
