"""Recordings of terminals: asciicast v2 and v3, encrypted by age if keys are given, with a size limit."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from proxy.wire.age import Encryptor, randomness_for

Version = Literal[2, 3]  # of asciicast
MARK_BYTES = 200  # reserved for a last event with the reason why the recording ends


class Recorder:
    """Writes one recording to a descriptor. Reports a failure once.

    Times count from the start in version 2, and from the previous event in version 3
    (docs.asciinema.org/manual/asciicast/). Encryption writes chunks of 64 KiB, of which a kill loses the last.
    """

    def __init__(
        self,
        descriptor: int,
        size: tuple[int, int],
        terminal: str,
        *,
        version: Version = 2,
        recipients: Sequence[bytes] = (),
        most: int,
        failed: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`size`: columns and rows. `recipients`: public keys of age. `most`: bytes of the file, before encryption.
        `failed` gets the reason why no more is written."""
        self._descriptor, self._most, self._failed, self._clock = descriptor, most, failed, clock
        self._version = version
        self._encryptor: Encryptor | None = None
        self._written = 0
        self._is_over = False
        self._last = clock()  # the time from which that of the next event counts
        if recipients:
            self._encryptor = Encryptor(recipients, secrets.token_bytes(randomness_for(len(recipients))))
            self._write(self._encryptor.header)
        self._line(_header(version, size, terminal, int(self._last)))

    def event(self, code: str, data: str) -> None:
        """Record an event with its time; see `Listener`."""
        if self._is_over or (code == "x" and self._version == 2):
            return
        now = self._clock()
        moment = round(now - self._last, 6)
        line = [moment, code, data]
        if self._written + len(json.dumps(line)) > self._most - MARK_BYTES:
            why = f"the recording is full: {self._most} bytes"
            self._line([moment, "m", why])
            self._stop(why)
            return
        self._line(line)
        if self._version == 3:
            self._last += moment  # not `now`: rounding errors must not add up

    def close(self) -> None:
        """Close the descriptor."""
        if self._descriptor < 0:
            return
        if self._encryptor is not None:
            self._write(self._encryptor.finish())
        self._is_over = True
        os.close(self._descriptor)
        self._descriptor = -1

    def _line(self, content: Any) -> None:
        data = json.dumps(content).encode() + b"\n"
        self._written += len(data)
        self._write(data if self._encryptor is None else self._encryptor.update(data))

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._encryptor = None  # a chunk is missing, so no later one could be decrypted
            self._stop(f"the recording cannot be written: {error.strerror}")

    def _stop(self, why: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._failed(why)


def _header(version: Version, size: tuple[int, int], terminal: str, start: int) -> dict[str, Any]:
    columns, rows = size
    name = terminal[:64]
    if version == 3:
        return {"version": 3, "term": {"cols": columns, "rows": rows, "type": name}, "timestamp": start}
    return {"version": 2, "width": columns, "height": rows, "timestamp": start, "env": {"TERM": name}}
