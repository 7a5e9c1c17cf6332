"""One channel of each side, tied together: bytes, ends, signals and pressure pass both ways."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import asyncssh

STDERR = asyncssh.EXTENDED_DATA_STDERR
DENIED_STATUS = 126  # as of a shell that may not execute what it was told to


class Tap(Protocol):
    """Reads along on a channel, and may change what passes."""

    def from_client(self, data: bytes) -> bytes:
        """What of it goes on."""
        ...

    def from_origin(self, data: bytes) -> bytes:
        """What of it goes on."""
        ...

    def resized(self, columns: int, rows: int) -> None: ...

    def close(self, status: int | None = None) -> None:
        """The channel is over; `status` is the program's, where it said one."""
        ...


class ServerChannel(asyncssh.SSHServerChannel[bytes]):
    """A client's session channel whose request is answered when the origin has answered it.

    asyncssh itself answers at once, by the value that a callback returns. A handler that returns None answers later, by
    `_report_response`: what asyncssh does for X11 requests is done for `shell`, `exec` and `subsystem` as well.
    """

    def _start_session(self, command: str | None = None, subsystem: str | None = None) -> bool:
        if self._session_started:
            return False
        self._session_started = True
        self._command, self._subsystem = command, subsystem
        session = self._session
        assert isinstance(session, Front)
        assert self._conn is not None
        self._conn.create_task(self._answer(session, command, subsystem))
        return None  # type: ignore[return-value]

    async def _answer(self, session: Front, command: str | None, subsystem: str | None) -> None:
        denial: str | None = None
        try:
            denial = await session.requested(command, subsystem)
            accepted = True
        except (asyncssh.Error, OSError):
            accepted = False
        if self._conn is None or not self._request_queue:
            return
        self._report_response(accepted)
        if denial is not None:
            self.write(denial.encode() + b"\r\n", STDERR)
            self.exit(DENIED_STATUS)

    def _process_auth_agent_req_at_openssh_dot_com_request(self, packet: Any) -> bool:  # type: ignore[override]
        return False  # the agent would have to stand in the inspector's file system

    def _process_x11_req_request(self, packet: Any) -> bool | None:
        return False


class Tied:
    """One end of a tied pair: what comes here is written to `peer`, the channel of the other side."""

    def __init__(self) -> None:
        self.chan: Any = None
        self.peer: Any = None
        self.tap: Tap | None = None
        self.received = self.received_stderr = 0
        self._is_paused = False

    def connection_made(self, chan: Any) -> None:
        self.chan = chan

    def tie(self, peer: Tied) -> None:
        """`peer` is the other end."""
        self.peer, peer.peer = peer.chan, self.chan
        if self._is_paused:
            peer.chan.pause_reading()
        if peer._is_paused:
            self.chan.pause_reading()

    def session_started(self) -> None:
        """Nothing is waited for."""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype:
            self.received_stderr += len(data)
        else:
            self.received += len(data)
            if self.tap is not None:
                data = self._tapped(data)
        if data and self.peer is not None and not self.peer.is_closing():
            self.peer.write(data, datatype)

    def _tapped(self, data: bytes) -> bytes:
        return data

    def eof_received(self) -> bool:
        if self.peer is not None and not self.peer.is_closing():
            with contextlib.suppress(OSError):
                self.peer.write_eof()
        return True

    def pause_writing(self) -> None:
        self._is_paused = True
        if self.peer is not None:
            self.peer.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        if self.peer is not None:
            self.peer.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.peer is not None:
            self.peer.close()


Request = Callable[["Front", "str | None", "str | None"], Awaitable["str | None"]]


class Front(Tied, asyncssh.SSHServerSession[bytes]):
    """A session channel of the client's."""

    def __init__(self, request: Request, ended: Callable[[Exception | None], None]) -> None:
        """`request` opens the origin's channel: it returns the reason of a denial, or raises."""
        super().__init__()
        self._request, self._ended = request, ended

    def requested(self, command: str | None, subsystem: str | None) -> Awaitable[str | None]:
        """Open the same at the origin."""
        return self._request(self, command, subsystem)

    def _tapped(self, data: bytes) -> bytes:
        assert self.tap is not None
        return self.tap.from_client(data)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._ended(error)

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


class Back(Tied, asyncssh.SSHClientSession[bytes]):
    """The origin's channel for it. How the program ended is told when all of its output has been passed on."""

    def __init__(self) -> None:
        super().__init__()
        self.status: int | None = None
        self.signal: tuple[str, bool, str, str] | None = None

    def _tapped(self, data: bytes) -> bytes:
        assert self.tap is not None
        return self.tap.from_origin(data)

    def exit_status_received(self, status: int) -> None:
        self.status = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.signal = signal, core_dumped, msg, lang

    def connection_lost(self, error: Exception | None) -> None:
        if self.peer is not None:
            if self.signal is not None:
                self.peer.exit_with_signal(*self.signal)
            elif self.status is not None:
                self.peer.exit(self.status)
        super().connection_lost(error)


class Through(Tied, asyncssh.SSHTCPSession[bytes], asyncssh.SSHUNIXSession[bytes]):
    """One end of a forwarded connection. The other may be there first: it is not read until this one is there."""

    def __init__(self, ended: Callable[[Exception | None], None] = lambda error: None) -> None:
        super().__init__()
        self.ended = ended
        self.peer_end: Through | None = None
        self._is_lost = False

    def connection_made(self, chan: Any) -> None:
        self.chan = chan
        if (other := self.peer_end) is not None:
            self.tie(other)
            if other._is_lost:
                chan.close()
            else:
                other.chan.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        super().connection_lost(error)
        self.ended(error)
