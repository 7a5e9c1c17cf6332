"""How a connection ends other than well: after a fault of the client, in the middle, by a reset."""

from __future__ import annotations

import asyncio
import socket
import struct

READ_BYTES = 256 << 10
LINGER_S = 2  # for the client to read why it was refused, before the connection goes
_LINGER_0 = struct.pack("ii", 1, 0)  # socket(7): closing sends a reset


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read on for a moment: closing at once would be a reset, and the client might not read what was sent last."""
    if writer.can_write_eof():
        writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await reader.read(READ_BYTES):
                pass


def cut(writer: asyncio.StreamWriter, last: bytes = b"") -> None:
    """Close the connection after these bytes, in the middle of what it carries."""
    writer.write(last)
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    writer.transport.abort()
