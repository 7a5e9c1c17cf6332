"""The open channels of an SSH session, which the proxy can watch and end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from proxy.inspect.ssh.terminal import Terminal
from proxy.session.messages import EndChannel, ScreenEvent, TerminalOutput, WatchChannel

FLUSH_S = 0.05  # interval of messages to watchers
MAX_PER_FLUSH = 32_768  # characters; more output is skipped, to bound the proxy's memory

Later = Callable[[float, Callable[[], None]], object]


class OpenChannel(NamedTuple):
    """An open channel. `end` ends it with a message for the user."""

    end: Callable[[str], None]
    terminal: Terminal | None


class OpenChannels:
    """All open channels of a session."""

    def __init__(self, session: int, send: Callable[[TerminalOutput], None], later: Later) -> None:
        """`send` sends a message to the proxy; `later(seconds, function)` calls `function` after that time."""
        self._session, self._send, self._later = session, send, later
        self._channels: dict[str, OpenChannel] = {}
        self._watched: dict[str, LiveOutput] = {}

    def opened(self, channel_id: str, end: Callable[[str], None], terminal: Terminal | None) -> None:
        """Add a channel; without a terminal it cannot be watched."""
        self._channels[channel_id] = OpenChannel(end, terminal)

    def closed(self, channel_id: str) -> None:
        """Remove a channel."""
        self._channels.pop(channel_id, None)
        self._watched.pop(channel_id, None)

    def take(self, message: WatchChannel | EndChannel) -> None:
        """Handle the proxy's message. Watching a channel that is closed, or has no terminal, ends at once."""
        if isinstance(message, EndChannel):
            for name, each in list(self._channels.items()):
                if message.channel in (None, name):
                    each.end(message.why)
            return
        channel = self._channels.get(message.channel)
        if channel is None or channel.terminal is None:
            if message.is_wanted:
                self._send(TerminalOutput(self._session, message.channel, is_over=True))
        elif message.is_wanted and message.channel not in self._watched:
            live = LiveOutput(self._session, message.channel, channel.terminal, self._send, self._later)
            self._watched[message.channel] = live
            channel.terminal.listen(live)
        elif not message.is_wanted and (watching := self._watched.pop(message.channel, None)) is not None:
            channel.terminal.unlisten(watching)


class LiveOutput:
    """A `Listener` that sends events to the proxy, several times a second."""

    def __init__(self, session: int, channel: str, terminal: Terminal, send: Callable[[TerminalOutput], None],
                 later: Later) -> None:  # fmt: skip
        self._session, self._channel, self._send, self._later = session, channel, send, later
        self._events: list[ScreenEvent] = [(time.time(), "o", terminal.tail)] if terminal.tail else []
        self._length, self._lost, self._is_waiting = 0, 0, False
        self._size: tuple[int, int] | None = terminal.size
        self._flush_soon()

    def event(self, code: str, data: str) -> None:
        """Queue an event."""
        if self._length + len(data) > MAX_PER_FLUSH:
            self._lost += len(data)
        else:
            self._length += len(data)
            self._events.append((time.time(), code, data))
        self._flush_soon()

    def close(self) -> None:
        """The terminal has ended."""
        self._flush(is_over=True)

    def _flush_soon(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._later(FLUSH_S, self._flush)

    def _flush(self, is_over: bool = False) -> None:
        self._is_waiting = False
        if self._events or self._lost or self._size or is_over:
            self._send(TerminalOutput(self._session, self._channel, self._events, self._size, self._lost, is_over))
        self._events, self._size, self._length, self._lost = [], None, 0, 0
