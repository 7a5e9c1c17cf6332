"""Session channels: asks for a reason, decides, and opens the same channel at the origin."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import asyncssh

from proxy.inspect.ssh.channels import DENIED_STATUS, STDERR, Back, Front, OriginLost
from proxy.inspect.ssh.contexts import ChannelContext
from proxy.inspect.ssh.forwarding import PACKET, WINDOW
from proxy.inspect.ssh.ruling import ChannelState, Denied, decide
from proxy.inspect.ssh.server_channel import ServerChannel
from proxy.inspect.ssh.taps import tap_for
from proxy.inspect.ssh.text import printable

REASON = b"OXY_REASON"  # the environment variable with the reason: `ssh -o SetEnv=OXY_REASON=...`
MAX_REASON = 500
REASON_S = 120.0


class SessionChannels:
    """The session channels of one session."""

    def __init__(self, context: ChannelContext) -> None:
        self._context = context

    def front(self) -> Awaitable[Front]:
        """A channel that the client opens. asyncssh.ChannelOpenError: there are too many."""
        self._context.reserve_channel()
        return self._front()

    async def _front(self) -> Front:
        """Create it once the origin is connected, unless that needs the client's agent."""
        context = self._context
        try:
            if context.view.rules.onward != "agent":
                await context.origin_connection()
        except BaseException:
            context.release_channel()
            raise
        state = context.new_channel()

        async def request(front: Front, command: bytes | None, subsystem: str | None) -> str | None:
            kind = "exec" if command is not None else "subsystem" if subsystem is not None else "shell"
            text = None if command is None else command.decode("utf-8", "backslashreplace")
            state.begin(kind, command=text, subsystem=subsystem)
            try:
                await context.client.earlier_requests()
                state.reason = await self._reason(front, kind)
                await decide(state)
                await self._open(state, front, command)
            except Denied as denied:
                return f"denied: {denied}"
            return None

        def ended(error: Exception | None) -> None:
            context.release_channel()
            state.end(front)

        front = Front(request, self._permit, ended)
        return front

    async def _permit(self, front: Front, kind: str) -> bool:
        """Whether the origin may use the client's agent or display. The proxy may need the agent too."""
        context = self._context
        if kind == "auth-agent" and context.view.rules.onward == "agent":
            context.agent_available()
        state = context.new_channel()
        state.begin(kind)
        try:
            await decide(state)
        except Denied:
            state.end(None)
            return False
        return True

    async def _reason(self, front: Front, kind: str) -> str:
        """The user's reason for the channel. Denied: a reason is required, and was not given."""
        chan: ServerChannel = front.chan
        reason = _line(chan.get_environment_bytes().get(REASON, b""))
        if reason or not self._context.view.rules.needs_reason:
            return reason
        if kind == "shell" and chan.get_terminal_type() is not None:
            reason = await _prompt_for_reason(front)
        if not reason:
            raise Denied(f"say why: ssh -o SetEnv={REASON.decode()}=...")
        return reason

    async def _open(self, state: ChannelState, front: Front, command: bytes | None) -> None:
        chan: ServerChannel = front.chan
        rules = self._context.view.rules
        if rules.onward == "agent" and not self._context.has_agent:
            raise Denied("the origin wants a key of your own: connect with ssh -A")
        origin = await self._context.origin_connection()
        if front.is_lost:
            return
        back = Back()
        terminal, size = chan.get_terminal_type(), chan.get_terminal_size()

        def ended(why: str) -> None:
            chan.write(f"\r\nended: {why}\r\n".encode(), STDERR)
            chan.exit(DENIED_STATUS)

        def notify(text: bytes) -> None:
            chan.write(text, STDERR)

        tap = await tap_for(state, terminal, size, chan.write, notify, ended)
        if front.is_lost:
            return
        state.back, state.tap, state.terminal = back, tap, terminal
        front.tap = back.tap = tap
        environment = {name: value for name, value in chan.get_environment_bytes().items() if name != REASON}
        origin.set_agent_forwarding(front.forwards_agent)
        try:
            await origin.create_session(
                lambda: back,
                command,  # bytes, which are sent unchanged
                subsystem=state.subsystem,
                env=environment,
                send_env=None,
                request_pty="force" if terminal is not None else False,
                term_type=terminal,
                term_size=size,
                term_modes=chan.get_terminal_modes(),
                x11_forwarding="ignore_failure" if front.display is not None else False,
                x11_display=front.display,
                x11_single_connection=front.display is not None and front.display.is_single,
                encoding=None,
                window=WINDOW,
                max_pktsize=PACKET,
            )
        except (asyncssh.Error, OSError) as error:
            state.error = printable(getattr(error, "reason", None) or str(error))
            if origin.is_lost:
                raise OriginLost from error
            raise
        if chan.is_closing():
            back.chan.close()
            return
        front.pair_with(back)
        if front.early:
            front.data_received(front.early, None)
        if front.has_ended:
            front.eof_received()
        if chan.is_answered:
            chan.resume_reading()  # asyncssh does so with the answer, which was sent before the reason was given


async def _prompt_for_reason(front: Front) -> str:
    """What the user types at the proxy's prompt; empty if the user cancels."""
    chan: ServerChannel = front.chan
    typed: asyncio.Queue[bytes] = asyncio.Queue()
    front.typed = typed.put_nowait
    chan.answer(True)
    chan.write(b"Reason for this session: ")
    line = bytearray()
    try:
        async with asyncio.timeout(REASON_S):
            while True:
                data = await typed.get()
                if not data or b"\x03" in data or b"\x04" in data:
                    return ""
                if (rest := _edit(line, data, chan)) is not None:
                    front.early = rest
                    return _line(bytes(line))
    except TimeoutError:
        return ""
    finally:
        front.typed = None
        while not typed.empty():
            front.early += typed.get_nowait()
        if not chan.is_closing():
            chan.write(b"\r\n")
            chan.pause_reading()


def _edit(line: bytearray, data: bytes, chan: Any) -> bytes | None:
    """Add typed characters to `line`, and echo them. Returns what follows the end of the line; None before it."""
    for at, byte in enumerate(data):
        if byte in b"\r\n":
            return data[at + 1 :]
        if byte in b"\x08\x7f":
            if line:
                line.pop()
                chan.write(b"\x08 \x08")
        elif byte >= 0x20 and len(line) < MAX_REASON:
            line.append(byte)
            chan.write(bytes([byte]))
    return None


def _line(text: bytes) -> str:
    return printable(text.decode("utf-8", "replace").strip(), MAX_REASON)
