"""Many datagrams per system call: recvmmsg(2), with the peer and ancillary data of each."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterator

SLOTS = 64  # datagrams per call
SLOT_BYTES = 1 << 16  # more than any UDP payload, also one coalesced by the kernel (UDP_GRO)
NAME_BYTES, CONTROL_BYTES = 28, 64  # a sockaddr_in6; TOS and the segment size of coalesced datagrams
MESSAGE = struct.Struct("@PIPNPNi0PI0P")  # struct mmsghdr: name, iovec, control, flags; bytes received
RECEIVED = struct.Struct("@40xN8xI0P")  # its output: length of the ancillary data, and of the datagram
IOVEC = struct.Struct("@PN")
PEER = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(8, 24)}  # the address in a sockaddr
ENDPOINT = {socket.AF_INET: slice(2, 8), socket.AF_INET6: slice(2, 24)}  # port and address; IPv6: 4 zeros between

_libc = ctypes.CDLL(None)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int


class Batch:
    """Buffers of one call: datagrams in `data`, ancillary data in `controls`, and the offsets of both in `slots`."""

    def __init__(self, family: int, places: dict[socket.AddressFamily, slice] = PEER) -> None:
        """`places`: the bytes of a sockaddr, by family, that identify the peer."""
        self.data = bytearray(SLOTS * SLOT_BYTES)
        self._names = bytearray(SLOTS * NAME_BYTES)
        place = places[socket.AddressFamily(family)]
        view = memoryview(self._names)
        self.controls = bytearray(SLOTS * CONTROL_BYTES)
        # offset of each datagram in `data`, offset of its ancillary data in `controls`, and the peer's address
        self.slots = [
            (slot * SLOT_BYTES, slot * CONTROL_BYTES, view[slot * NAME_BYTES :][place]) for slot in range(SLOTS)
        ]
        self._messages = bytearray(SLOTS * MESSAGE.size)
        self._iovecs = bytearray(SLOTS * IOVEC.size)
        data, names, controls, iovecs, self._at = map(
            _address, (self.data, self._names, self.controls, self._iovecs, self._messages)
        )
        for slot, (begin, control, _) in enumerate(self.slots):
            IOVEC.pack_into(self._iovecs, slot * IOVEC.size, data + begin, SLOT_BYTES)
            MESSAGE.pack_into(
                self._messages, slot * MESSAGE.size, names + slot * NAME_BYTES, NAME_BYTES,
                iovecs + slot * IOVEC.size, 1, controls + control, CONTROL_BYTES, 0, 0,
            )  # fmt: skip
        self._view, self._fresh = memoryview(self._messages), bytes(self._messages)

    def receive(self, fd: int) -> Iterator[tuple[int, int]]:
        """For each datagram received, the lengths of its ancillary data and of itself. Valid until the next call."""
        self._view[:] = self._fresh  # the kernel overwrote the buffer lengths of the last call
        count = _recvmmsg(fd, self._at, SLOTS, socket.MSG_DONTWAIT, None)
        return RECEIVED.iter_unpack(self._view[: max(0, count) * MESSAGE.size])


def _address(buffer: bytearray) -> int:
    """The buffer's address in memory, valid until the buffer is resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
