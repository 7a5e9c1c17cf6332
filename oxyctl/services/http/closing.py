"""Abnormal ends of connections: after a fault of the client, in the middle of a message, or by RST."""

from __future__ import annotations

import asyncio
import socket
import struct

READ_BYTES = 256 << 10
LINGER_S = 2  # for the client to read the error before the connection closes
_LINGER_0 = struct.pack("ii", 1, 0)  # socket(7): closing sends RST


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read for a moment longer: closing at once would send RST, and the client might not read the last response."""
    if writer.can_write_eof():
        writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await reader.read(READ_BYTES):
                pass


def cut(writer: asyncio.StreamWriter, last: bytes = b"") -> None:
    """Close the connection after these bytes, in the middle of a message: with FIN, and not with the RST that unread
    bytes of the client's would cause."""
    writer.write(last)
    if writer.can_write_eof():
        writer.write_eof()
        asyncio.get_running_loop().call_later(LINGER_S, writer.close)
    else:
        writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()
