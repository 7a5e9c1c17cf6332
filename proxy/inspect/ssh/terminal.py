"""The output and input of a terminal, as events for listeners: recordings and watchers."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable
from typing import Protocol

MAX_HELD = 4_096  # typed characters that wait for their echo
TAIL = 16_384  # last characters of the output, for a new watcher


class Listener(Protocol):
    """Gets each event: `o` output, `i` input that was echoed, `r` a new size, `x` an exit status."""

    def event(self, code: str, data: str) -> None: ...

    def close(self) -> None: ...


class Terminal:
    """A `Tap`. Characters are never split.

    A typed line is held until the terminal echoes it. A line without an echo was typed at a password prompt, or was
    edited; it is never reported.
    """

    def __init__(
        self,
        size: tuple[int, int],
        name: str,
        *,
        takes_input: bool,
        end: Callable[[str], None],
        has_carriage_returns: bool = True,
    ) -> None:
        """`size`: columns and rows. `name`: the terminal's type. `end` ends the channel with a message for the user.
        `has_carriage_returns`: lines end with CR LF, as on a terminal; without one, with LF alone."""
        self._has_carriage_returns = has_carriage_returns
        self.size, self.name, self.end = (size[0] or 80, size[1] or 24), name, end
        self._takes_input = takes_input
        self._listeners: list[Listener] = []
        self._decode_out = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._decode_stderr = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._decode_in = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._typed = self._echo = ""  # since the first character of the line
        self._tail: deque[str] = deque()
        self._tail_length = 0

    def listen(self, listener: Listener) -> None:
        """Send future events to `listener`."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Stop sending events to `listener`."""
        self._listeners.remove(listener)

    @property
    def tail(self) -> str:
        """The end of the output so far."""
        return "".join(self._tail)

    def from_client(self, data: bytes) -> bytes:
        """Observe input."""
        if self._takes_input and self._listeners:
            if not self._typed:
                self._echo = ""
            self._typed = (self._typed + self._decode_in(data))[-MAX_HELD:]
        return data

    def from_origin(self, data: bytes) -> bytes:
        """Observe output."""
        self._add_output(self._decode_out(data))
        return data

    def from_stderr(self, data: bytes) -> None:
        """Observe output on standard error."""
        self._add_output(self._decode_stderr(data))

    def _add_output(self, text: str) -> None:
        if not self._has_carriage_returns:
            text = text.replace("\n", "\r\n")
        if self._typed:
            self._echoed(text)
        if text:
            self._append_to_tail(text)
            self._event("o", text)

    def resized(self, columns: int, rows: int) -> None:
        """Note the new size."""
        self.size = columns, rows
        self._event("r", f"{columns}x{rows}")

    def close(self, status: int | None = None) -> None:
        """The channel has ended; `status`: the program's exit status, if known."""
        for decode in (self._decode_out, self._decode_stderr):
            if rest := decode(b"", True):
                self._event("o", rest)
        if status is not None:
            self._event("x", str(status))
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _event(self, code: str, data: str) -> None:
        for listener in [*self._listeners]:
            listener.event(code, data)

    def _append_to_tail(self, text: str) -> None:
        self._tail.append(text[-TAIL:])
        self._tail_length += len(self._tail[-1])
        while self._tail_length - len(self._tail[0]) > TAIL:
            self._tail_length -= len(self._tail.popleft())

    def _echoed(self, text: str) -> None:
        """Report lines that were echoed completely. A partial match does not count: it could be part of a secret."""
        self._echo = (self._echo + text)[-MAX_HELD:]
        while self._typed and "\n" in self._echo:
            lines = [line for line in self._typed.splitlines(keepends=True) if line[-1] in "\r\n"]
            if not lines:
                return
            shown, _, self._echo = self._echo.partition("\n")
            found = next((at for at, line in enumerate(lines) if line.rstrip("\r\n") in shown), None)
            if found is not None:
                self._event("i", lines[found])
            passed = lines[: 1 if found is None else found + 1]
            self._typed = self._typed[sum(map(len, passed)) :]
