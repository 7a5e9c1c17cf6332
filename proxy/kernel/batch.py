"""Many datagrams in one system call: recvmmsg(2), with the peer and the ancillary data of each."""

from __future__ import annotations

import ctypes
import socket
import struct

SLOTS = 64  # datagrams in one call
SLOT_BYTES = 1 << 16  # more than a UDP payload, or what the kernel joins of several (UDP_GRO)
NAME_BYTES, CONTROL_BYTES = 28, 64  # a sockaddr_in6; TOS and the size of joined datagrams
MESSAGE = struct.Struct("@PIPNPNi0PI0P")  # struct mmsghdr: name, iovec, control, flags; bytes received
IOVEC = struct.Struct("@PN")
PEER = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(8, 24)}  # the address in a sockaddr

_libc = ctypes.CDLL(None)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_recvmmsg.restype = ctypes.c_int


class Batch:
    """Room for what one call returns. Slot n of `data` begins at n * SLOT_BYTES, of `controls` at n * CONTROL_BYTES."""

    def __init__(self, sock: socket.socket) -> None:
        self.data = bytearray(SLOTS * SLOT_BYTES)
        self._names = bytearray(SLOTS * NAME_BYTES)
        place = PEER[sock.family]
        view = memoryview(self._names)
        self.hosts = [view[slot * NAME_BYTES :][place] for slot in range(SLOTS)]  # the peer's address of each
        self.controls = bytearray(SLOTS * CONTROL_BYTES)
        self.messages = bytearray(SLOTS * MESSAGE.size)
        self._sock, self._iovecs = sock, bytearray(SLOTS * IOVEC.size)
        data, names, controls, iovecs, self._at = map(
            _address, (self.data, self._names, self.controls, self._iovecs, self.messages)
        )
        for slot in range(SLOTS):
            IOVEC.pack_into(self._iovecs, slot * IOVEC.size, data + slot * SLOT_BYTES, SLOT_BYTES)
            MESSAGE.pack_into(
                self.messages, slot * MESSAGE.size, names + slot * NAME_BYTES, NAME_BYTES,
                iovecs + slot * IOVEC.size, 1, controls + slot * CONTROL_BYTES, CONTROL_BYTES, 0, 0,
            )  # fmt: skip
        self._fresh = bytes(self.messages)  # the kernel writes lengths over those that it was given

    def receive(self) -> int:
        """How many datagrams there are now; 0 when none waits."""
        self.messages[:] = self._fresh
        count: int = _recvmmsg(self._sock.fileno(), self._at, SLOTS, socket.MSG_DONTWAIT, None)
        return max(0, count)


def _address(buffer: bytearray) -> int:
    """Where it stands; it stays there as long as it is not resized."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
