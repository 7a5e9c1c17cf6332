"""Pairs of channels, one on each side: forwards data, ends, signals and back-pressure in both directions."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import asyncssh

from proxy.inspect.ssh.channel_buffers import hold_in_pieces, keep_eof

STDERR = asyncssh.EXTENDED_DATA_STDERR
DENIED_STATUS = 126  # a shell's status for a command that it may not execute


class OriginLost(Exception):
    """The connection to the origin is lost. The client gets no answer but the disconnect, which says why."""


class Tap(Protocol):
    """Observes the data of a channel, and may change it."""

    def from_client(self, data: bytes) -> bytes:
        """The data to forward in place of `data`."""
        ...

    def from_origin(self, data: bytes) -> bytes:
        """The data to forward in place of `data`."""
        ...

    def from_stderr(self, data: bytes) -> None:
        """Observe what the program writes to its standard error."""
        ...

    def resized(self, columns: int, rows: int) -> None: ...

    def close(self, status: int | None = None) -> None:
        """The channel has ended; `status`: the program's exit status, if known."""
        ...


class Display(NamedTuple):
    """A client's X11 display, as it requested forwarding (RFC 4254 6.3.1)."""

    protocol: bytes
    cookie: bytes
    screen: int
    is_single: bool  # for one connection only


class PairedChannel:
    """One channel of a pair: what arrives here is written to `peer`, the channel on the other side."""

    def __init__(self) -> None:
        self.chan: Any = None
        self.peer: Any = None
        self.is_lost = False  # its channel is closed
        self.tap: Tap | None = None
        self.received = self.received_stderr = 0
        self._holds: set[str] = set()  # reasons why nothing may be written here

    def connection_made(self, chan: Any) -> None:
        self.chan = chan
        hold_in_pieces(chan)
        keep_eof(chan)

    def pair_with(self, peer: PairedChannel) -> None:
        """Pair this channel with `peer`."""
        self.peer, peer.peer = peer.chan, self.chan
        for each in (self, peer):
            if getattr(each.chan.get_connection(), "is_full", False):
                each._holds.add("connection")
            if each._holds:
                each.peer.pause_reading()

    def session_started(self) -> None:
        """Nothing to do: reading starts once the pair is complete."""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype:
            self.received_stderr += len(data)
            if self.tap is not None and isinstance(self, Back):
                self.tap.from_stderr(data)
        else:
            self.received += len(data)
            if self.tap is not None:
                data = self._apply_tap(data)
        if data and self.peer is not None and not self.peer.is_closing():
            self.peer.write(data, datatype)

    def _apply_tap(self, data: bytes) -> bytes:
        return data

    def eof_received(self) -> bool:
        if self.peer is not None and not self.peer.is_closing():
            with contextlib.suppress(OSError):
                self.peer.write_eof()
        return True

    def pause_writing(self) -> None:
        self.hold("window")

    def resume_writing(self) -> None:
        self.release("window")

    def hold(self, why: str) -> None:
        """Stop writes to this channel, by not reading the other one."""
        if not self._holds and self.peer is not None:
            self.peer.pause_reading()
        self._holds.add(why)

    @property
    def is_held(self) -> bool:
        """Whether writes to this channel are stopped."""
        return bool(self._holds)

    def release(self, why: str) -> None:
        """Allow writes again, once no other reason is left."""
        self._holds.discard(why)
        if not self._holds and self.peer is not None:
            self.peer.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self.end()

    def end(self) -> None:
        """Nothing more arrives here: close the other end."""
        if self.chan is not None and self.chan.eof_waits:
            self.eof_received()
        if self.peer is not None:
            self.peer.close()


Request = Callable[["Front", "bytes | None", "str | None"], Awaitable["str | None"]]
Permit = Callable[["Front", "str"], Awaitable[bool]]


class Front(PairedChannel, asyncssh.SSHServerSession[bytes]):
    """A session channel of the client."""

    def __init__(self, request: Request, permit: Permit, ended: Callable[[Exception | None], None]) -> None:
        """`request` opens the origin's channel, and returns the reason of a denial, or raises. `permit` decides whether
        the origin may use the client's `auth-agent` or `x11`."""
        super().__init__()
        self._request, self._permit, self._ended = request, permit, ended
        self._back: Back | None = None
        self.forwards_agent = False
        self.display: Display | None = None
        self.typed: Callable[[bytes], None] | None = None  # reads input before it goes to the origin
        self.early = b""  # input that arrived before the origin's channel was open
        self.has_ended = False  # no input follows it
        self.is_finished = False

    def requested(self, command: bytes | None, subsystem: str | None) -> Awaitable[str | None]:
        """Make the same request at the origin."""
        return self._request(self, command, subsystem)

    async def agent_requested(self) -> bool:
        """Whether the origin may use the client's agent."""
        self.forwards_agent = await self._permit(self, "auth-agent")
        return self.forwards_agent

    async def x11_requested(self, display: Display) -> bool:
        """Whether the origin may open windows at the client's display."""
        if self.display is not None or not await self._permit(self, "x11"):
            return False
        self.display = display
        return True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self.typed is not None:
            self.typed(data)
        else:
            super().data_received(data, datatype)

    def eof_received(self) -> bool:
        if self.peer is None:
            self.has_ended = True
            if self.typed is not None:
                self.typed(b"")
        return super().eof_received()

    def _apply_tap(self, data: bytes) -> bytes:
        assert self.tap is not None
        return self.tap.from_client(data)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self.typed is not None:
            self.typed(b"")
        self.finish(error)

    def finish(self, error: Exception | None = None) -> None:
        """Report the end of the channel, once."""
        if not self.is_finished:
            self.is_finished = True
            self._ended(error)

    def pair_with(self, peer: PairedChannel) -> None:
        super().pair_with(peer)
        assert isinstance(peer, Back)
        self._back = peer

    @property
    def is_cut_off(self) -> bool:
        """Whether the connection to the origin was lost before the origin had closed this channel."""
        return self._back is not None and self._back.is_cut_off

    @property
    def waits_for_end(self) -> bool:
        """Whether the origin's channel is open, so that the exit status may still arrive."""
        return self._back is not None and not self._back.is_lost

    @property
    def is_origin_held(self) -> bool:
        """Whether nothing may be written to the origin's channel."""
        return self._back is not None and self._back.is_held

    def close_origin(self) -> None:
        """The client has closed its channel: close the origin's, but wait for the exit status."""
        self.end()

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self.tap is not None:
            self.tap.resized(width, height)
        if self.peer is not None:
            with contextlib.suppress(OSError):
                self.peer.change_terminal_size(width, height, pixwidth, pixheight)

    def signal_received(self, signal: str) -> None:
        if self.peer is not None:
            with contextlib.suppress(ValueError, OSError):
                self.peer.send_signal(signal)

    def break_received(self, msec: int) -> bool:
        if self.peer is None:
            return False
        self.peer.send_break(msec)
        return True


class Back(PairedChannel, asyncssh.SSHClientSession[bytes]):
    """The origin's channel of a `Front`. The exit status is forwarded after all output."""

    def __init__(self) -> None:
        super().__init__()
        self.status: int | None = None
        self.signal: tuple[str, bool, str, str] | None = None
        self.is_cut_off = False  # the connection was lost before the origin had closed this channel

    def _apply_tap(self, data: bytes) -> bytes:
        assert self.tap is not None
        return self.tap.from_origin(data)

    def exit_status_received(self, status: int) -> None:
        self.status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.signal = signal, core_dumped, msg, lang

    def connection_lost(self, error: Exception | None) -> None:
        for data, datatype in self._undelivered():
            self.data_received(data, datatype)
        if self.peer is not None:
            if self.chan.eof_waits:
                self.eof_received()
            if self.signal is not None:
                self.peer.exit_with_signal(*self.signal)
            elif self.status is not None:
                self.peer.exit(self.status)
            else:
                self.is_cut_off = self.chan._recv_state in ("open", "eof_pending", "eof")
        super().connection_lost(error)

    def _undelivered(self) -> list[tuple[bytes, int | None]]:
        """The output that was queued for the client when the origin ended the connection."""
        return [] if self.chan is None else list(self.chan._recv_buf)


class ForwardedChannel(PairedChannel, asyncssh.SSHTCPSession[bytes], asyncssh.SSHUNIXSession[bytes]):
    """One end of a forwarded connection. If the other end is open first, it is not read until this one is open."""

    # observes the first data; returns whether it needs more
    observe_start: Callable[[bytes], bool] | None = None

    def __init__(self, ended: Callable[[Exception | None], None] = lambda error: None) -> None:
        super().__init__()
        self.ended = ended
        self.peer_end: ForwardedChannel | None = None

    def connection_made(self, chan: Any) -> None:
        super().connection_made(chan)
        if (other := self.peer_end) is not None:
            self.pair_with(other)
            if other.is_lost:
                chan.close()
            elif not self._holds:
                other.chan.resume_reading()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self.observe_start is not None and not self.observe_start(data):
            self.observe_start = None
        super().data_received(data, datatype)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.ended(error)
