"""A client's session channel, whose requests are answered after the origin has answered them."""

from __future__ import annotations

from typing import Any, ClassVar

import asyncssh
from asyncssh.constants import MSG_CHANNEL_CLOSE, MSG_CHANNEL_REQUEST

from proxy.inspect.ssh.channels import DENIED_STATUS, STDERR, Display, Front, OriginLost

MAX_REQUESTS = 128  # requests that wait for an answer
CLIENT_CLOSED = "client_closed"  # the client has closed the channel, and the exit status has not arrived


class ServerChannel(asyncssh.SSHServerChannel[bytes]):
    """asyncssh answers a request at once, by the return value of its callback. A handler that returns None answers
    later, by `_report_response`: asyncssh does so for X11, this class also for `shell`, `exec` and `subsystem`.
    """

    is_answered = eof_waits = False

    def _process_close(self, kind: int, number: int, packet: Any) -> None:
        """Delay the answer to the client's close until the exit status was sent, as sshd does (RFC 4254 5.3), since a
        program may outlive the client's interest. asyncssh answers at once.
        """
        session = self._session
        if (
            not isinstance(session, Front)
            or not session.waits_for_end
            or self._send_state in ("close_pending", "closed")
        ):
            super()._process_close(kind, number, packet)
            return
        if self._recv_state not in ("open", "eof_pending", "eof"):
            raise asyncssh.ProtocolError("Channel not open")
        packet.check_end()
        self.eof_waits = self._recv_state == "eof_pending"
        self._recv_state = CLIENT_CLOSED
        self._send_buf.clear()  # a peer that has closed takes no more data
        self._send_buf_len = 0
        self._pause_resume_writing()
        self._flush_recv_buf()

    def _flush_recv_buf(self, exc: Exception | None = None) -> None:
        super()._flush_recv_buf(exc)
        session = self._session
        if self._recv_state == CLIENT_CLOSED and not self._recv_buf and isinstance(session, Front):
            session.close_origin()

    def _close_send(self) -> None:
        """Close the channel, unless the origin is lost: then a disconnect follows the last output. OpenSSH's client may
        exit at a close, before it reads the reason.
        """
        session = self._session
        if (
            isinstance(session, Front)
            and session.is_cut_off
            and self._send_state == "close_pending"
            and self._recv_state != CLIENT_CLOSED
        ):
            session.finish()
            return
        super()._close_send()
        if self._recv_state == CLIENT_CLOSED:
            self._recv_state = "closed"
            self._loop.call_soon(self._cleanup)

    def write(self, data: bytes, datatype: int | None = None) -> None:
        """Write, unless the client has closed the channel."""
        if self._recv_state != CLIENT_CLOSED:
            super().write(data, datatype)

    def resume_reading(self) -> None:
        """Read on, unless the origin takes nothing: asyncssh does so with the answer to a request, too."""
        session = self._session
        if not (isinstance(session, Front) and session.is_origin_held):
            super().resume_reading()

    def _process_request(self, kind: int, number: int, packet: Any) -> None:
        if len(self._request_queue) >= MAX_REQUESTS:
            raise asyncssh.ProtocolError("too many requests at once")
        super()._process_request(kind, number, packet)

    def _process_exec_request(self, packet: Any) -> bool | None:  # type: ignore[override]
        command = packet.get_string()
        packet.check_end()
        return self._requested(command, None)

    def _start_session(self, command: str | None = None, subsystem: str | None = None) -> bool | None:  # type: ignore[override]
        return self._requested(None, subsystem)

    def _requested(self, command: bytes | None, subsystem: str | None) -> bool | None:
        """Handle a request. Returns None: it is answered later."""
        if self._session_started or subsystem == "":
            return False
        self._session_started = True
        session = self._session
        assert isinstance(session, Front)
        assert self._conn is not None
        self._conn.create_task(self._answer(session, command or None, subsystem))
        return None

    async def _answer(self, session: Front, command: bytes | None, subsystem: str | None) -> None:
        denial: str | None = None
        try:
            denial = await session.requested(command, subsystem)
            is_accepted = True
        except OriginLost:
            session.finish()
            return
        except (asyncssh.Error, OSError) as error:
            is_accepted = False
            if self.is_answered:
                denial = str(getattr(error, "reason", None) or error)
        self.answer(is_accepted)
        if denial is not None and not self.is_closing():
            self.write(denial.encode("utf-8", "replace") + b"\r\n", STDERR)
            self.exit(DENIED_STATUS)

    def answer(self, is_accepted: bool) -> None:
        """Answer the request for a shell, command or subsystem, unless it has been answered."""
        if not self.is_answered and self._conn is not None and self._request_queue:
            self.is_answered = True
            self._report_response(is_accepted)

    def _process_auth_agent_req_at_openssh_dot_com_request(self, packet: Any) -> bool | None:  # type: ignore[override]
        packet.check_end()
        self._later(self._front.agent_requested())
        return None

    def _process_x11_req_request(self, packet: Any) -> bool | None:
        single = packet.get_boolean()
        protocol, cookie, screen = packet.get_string(), packet.get_string(), packet.get_uint32()
        packet.check_end()
        try:
            display = Display(protocol, bytes.fromhex(cookie.decode("ascii")), screen, single)
        except ValueError:
            return False
        self._later(self._front.x11_requested(display))
        return None

    @property
    def _front(self) -> Front:
        assert isinstance(self._session, Front)
        return self._session

    def _later(self, answer: Any) -> None:
        async def report() -> None:
            accepted = await answer
            if self._conn is not None and self._request_queue:
                self._report_response(accepted)

        assert self._conn is not None
        self._conn.create_task(report())

    _packet_handlers: ClassVar[Any] = {  # type: ignore[misc]
        **asyncssh.SSHServerChannel._packet_handlers,
        MSG_CHANNEL_REQUEST: lambda self, *packet: self._process_request(*packet),
        MSG_CHANNEL_CLOSE: lambda self, *packet: self._process_close(*packet),
    }
