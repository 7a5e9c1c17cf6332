"""What a terminal showed, as asciicast v2: output always, input by choice, never what the terminal did not echo."""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Callable

MAX_HELD = 4_096  # characters typed whose echo is awaited


class Recorder:
    """Writes one recording to a descriptor. Characters are never split; a failure is told once.

    A line that is typed is held until the terminal shows it. One that is not shown was typed at a prompt that hides it,
    such as that for a password, or was edited: it is left out.
    """

    def __init__(
        self,
        descriptor: int,
        size: tuple[int, int],
        terminal: str,
        *,
        takes_input: bool,
        most: int,
        failed: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`size`: columns and rows. `most`: bytes of the file. `failed` hears why no more is written."""
        self._descriptor, self._most, self._failed, self._clock = descriptor, most, failed, clock
        self._takes_input = takes_input
        self._decode_out = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._decode_in = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._typed = self._shown = ""  # since the first of what is typed
        self._written = 0
        self._is_over = False
        self._start = clock()
        columns, rows = size
        header = {"version": 2, "width": columns or 80, "height": rows or 24, "timestamp": int(self._start),
                  "env": {"TERM": terminal[:64]}}  # fmt: skip
        self._write(json.dumps(header) + "\n")

    def from_client(self, data: bytes) -> bytes:
        """Note what is typed."""
        if self._takes_input and not self._is_over:
            if not self._typed:
                self._shown = ""
            self._typed = (self._typed + self._decode_in(data))[-MAX_HELD:]
        return data

    def from_origin(self, data: bytes) -> bytes:
        """Note what is shown."""
        if not self._is_over:
            text = self._decode_out(data)
            if self._typed:
                self._echoed(text)
            if text:
                self._event("o", text)
        return data

    def resized(self, columns: int, rows: int) -> None:
        """Note the new size."""
        self._event("r", f"{columns}x{rows}")

    def close(self) -> None:
        """Close the descriptor."""
        rest = self._decode_out(b"", True)
        if rest:
            self._event("o", rest)
        self._is_over = True
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _echoed(self, text: str) -> None:
        """Note the lines that are shown whole. Half a match is none: it could be a part of a secret."""
        self._shown = (self._shown + text)[-MAX_HELD:]
        while self._typed and "\n" in self._shown:
            lines = [line for line in self._typed.splitlines(keepends=True) if line[-1] in "\r\n"]
            if not lines:
                return
            shown, _, self._shown = self._shown.partition("\n")
            found = next((at for at, line in enumerate(lines) if line.rstrip("\r\n") in shown), None)
            if found is not None:
                self._event("i", lines[found])
            passed = lines[: 1 if found is None else found + 1]
            self._typed = self._typed[sum(map(len, passed)) :]

    def _event(self, code: str, data: str) -> None:
        if self._is_over:
            return
        moment = round(self._clock() - self._start, 6)
        line = json.dumps([moment, code, data]) + "\n"
        if self._written + len(line) > self._most:
            self._write(json.dumps([moment, "m", "the recording is full"]) + "\n")
            self._stop(f"the recording is full: {self._most} bytes")
        else:
            self._write(line)

    def _write(self, line: str) -> None:
        data = line.encode()
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._stop(f"the recording cannot be written: {error.strerror}")
        self._written += len(line)

    def _stop(self, why: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._failed(why)
