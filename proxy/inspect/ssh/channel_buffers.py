"""The queues of channels whose peers cannot be written: stored in few pieces, and released in turn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from asyncssh.constants import MSG_CHANNEL_EOF, MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.packet import UInt32

PIECE = 64 << 10  # bytes passed on at once
MAX_PIECES = 128  # a window of packets of one byte each would be 200 MB
STEP = 96 << 10  # bytes by which windows are reopened: three packets, as in OpenSSH
SMALL = 4 << 10  # bytes: keystrokes, their echo, a prompt


class BufferedChannel(Protocol):
    """One channel of a pair; data for it is queued in the channel `peer`."""

    peer: Any


End = TypeVar("End", bound=BufferedChannel)


def hold_in_pieces(chan: Any) -> None:
    """Make a channel queue data in a few pieces while it is not read, however small its packets are.

    asyncssh reopens the whole window with any piece that is passed on, whatever is still queued, so that the queue of a
    slow peer grows without limit; and it does so by half a window at once, a burst that all other channels wait for.

    Here the window is reopened by small steps, but not before a quarter of it is used: an origin that sends less and
    closes at once must not have unread data of ours, for which its kernel would send a reset and drop the tail.
    """
    chan._accept_data = partial(_accept, chan, chan._accept_data)
    chan._deliver_data = partial(_deliver, chan)
    chan.passed_on = 0  # bytes by which the window was not yet reopened
    chan.step = max(chan._recv_window // 4, STEP)


def keep_eof(chan: Any) -> None:
    """Send an EOF that waits behind data before the close: asyncssh forgets it with the close, be it the
    peer's (`eof_waits`) or ours (`owes_eof`)."""
    chan.eof_waits = chan.owes_eof = False
    chan.close = partial(_close, chan, chan.close)
    chan._close_send = partial(_close_send, chan, chan._close_send)


def _close(chan: Any, original: Any) -> None:
    chan.owes_eof = chan.owes_eof or chan._send_state == "eof_pending"
    original()


def _close_send(chan: Any, original: Any) -> None:
    chan.eof_waits = chan.eof_waits or chan._recv_state == "eof_pending"
    if chan.owes_eof and not chan._send_buf and chan._send_state == "close_pending":
        chan.owes_eof = False
        chan.send_packet(MSG_CHANNEL_EOF)
    original()


def _deliver(chan: Any, data: bytes, datatype: int | None) -> None:
    chan.passed_on += len(data)
    if chan.passed_on >= chan.step:
        chan.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(chan.passed_on))
        chan._recv_window += chan.passed_on
        chan.passed_on, chan.step = 0, STEP
    if chan._session is not None:
        chan._session.data_received(data, datatype)


def _accept(chan: Any, original: Any, data: bytes, datatype: int | None = None) -> None:
    held = chan._recv_buf
    if not chan._recv_paused or chan._send_state in ("close_pending", "closed"):
        original(data, datatype)
        return
    is_crowded = len(held) >= MAX_PIECES  # stdout and stderr alternate: their relative order is given up
    for piece, kind in held[: -3 if is_crowded else -2 : -1]:
        if kind == datatype and isinstance(piece, bytearray) and (is_crowded or len(piece) + len(data) <= PIECE):
            chan._recv_window -= len(data)
            piece.extend(data)
            return
    original(bytearray(data), datatype)


def write_order(ends: Sequence[End], first: End | None) -> list[End]:
    """Channels with little data first, then the others, beginning with `first`."""
    at = next((at for at, end in enumerate(ends) if end is first), 0)
    return sorted([*ends[at:], *ends[:at]], key=_has_much)


def _has_much(end: BufferedChannel) -> bool:
    held = [] if end.peer is None else end.peer._recv_buf
    return len(held) > 1 or any(len(data) > SMALL for data, _ in held)
