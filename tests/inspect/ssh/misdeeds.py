"""What a peer of asyncssh's may not do once a channel is open, whichever side it is on: called with its connection."""

from __future__ import annotations

import struct

from asyncssh.constants import MSG_CHANNEL_DATA
from asyncssh.packet import String, UInt32


def a_wrong_mac(conn):
    conn._transport.write(struct.pack("!I", 32) + b"\xa5" * 60)


def beyond_the_window(conn):
    [chan] = conn._channels.values()
    for _ in range(200):
        chan.send_packet(MSG_CHANNEL_DATA, String(bytes(32_768)))


def to_no_channel(conn):
    conn.send_packet(MSG_CHANNEL_DATA, UInt32(77), String(b"x"))
