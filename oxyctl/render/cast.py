"""Terminal recordings (asciicast v2 and v3): parsed, even when truncated, and played in a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from oxyctl.errors import OxyctlError, UsageError

ENCRYPTED = b"age-encryption.org/"
RESET = "\x1b[0m\x1b[?25h\x1b[?1049l"  # colours, the cursor, the primary screen


class Moment(NamedTuple):
    """One event. `code`: `o` is output, `i` input, `r` a new size, `x` an exit status, `m` a marker."""

    seconds: float  # since the start of the recording
    code: str
    data: str


class Cast(NamedTuple):
    """A recording. `is_cut`: its last line is incomplete."""

    columns: int
    rows: int
    timestamp: int | None  # of the start, Unix time
    moments: list[Moment]
    is_cut: bool = False


def decrypted(data: bytes, identities: str | None) -> tuple[bytes, str | None]:
    """The decrypted recording, and what is wrong with its end, if anything; unencrypted ones are returned unchanged.

    `identities`: text with `AGE-SECRET-KEY-1...`. UsageError: no identity is given, or none matches.
    """
    from proxy.wire.age import AgeError, decrypt, identity

    if not data.startswith(ENCRYPTED):
        return data, None
    if identities is None:
        raise UsageError("the recording is encrypted: give the file with the age identity as --identity FILE")
    lines = [line.strip() for line in identities.splitlines()]
    clear = bytearray()
    try:
        keys = [identity(line) for line in lines if line and not line.startswith("#")]
        for chunk in decrypt(data, keys):
            clear += chunk
    except AgeError as error:
        if not clear:
            raise UsageError(f"the recording cannot be decrypted: {error}") from None
        return bytes(clear), str(error)
    return bytes(clear), None


def read_cast(data: bytes) -> Cast:
    """Parse a recording. OxyctlError: it is not an asciicast."""
    head, *rest = data.split(b"\n")
    header = _parsed(head)
    version = header.get("version") if isinstance(header, dict) else None
    if version not in (2, 3):
        raise OxyctlError("not a terminal recording: expected asciicast, version 2 or 3")
    terminal = header.get("term", {}) if version == 3 else header
    moments: list[Moment] = []
    now, is_cut = 0.0, bool(rest and rest[-1])
    for line in rest[:-1]:
        if not line.strip() or line.startswith(b"#"):
            continue
        event = _parsed(line)
        if not isinstance(event, list) or [*map(type, event[1:])] != [str, str] or not _is_number(event[0]):
            raise OxyctlError(f"an event of the recording cannot be read: {line[:80].decode(errors='replace')}")
        now = now + event[0] if version == 3 else float(event[0])
        moments.append(Moment(now, event[1], event[2]))
    names = ("cols", "rows") if version == 3 else ("width", "height")
    columns, rows = (terminal.get(name) if isinstance(terminal, dict) else None for name in names)
    if not isinstance(columns, int) or not isinstance(rows, int):
        raise OxyctlError("the recording does not say how large its terminal is")
    return Cast(columns, rows, header.get("timestamp"), moments, is_cut)


def play(
    moments: Iterable[Moment],
    write: Callable[[str], object],
    sleep: Callable[[float], object],
    *,
    speed: float = 1.0,
    idle_limit_s: float | None = None,
) -> None:
    """Write the output with its timing. Pauses are cut at `idle_limit_s`, then divided by `speed`."""
    last = 0.0
    try:
        for moment in moments:
            pause = max(moment.seconds - last, 0.0)
            last = moment.seconds
            if idle_limit_s is not None:
                pause = min(pause, idle_limit_s)
            if pause:
                sleep(pause / speed)
            if moment.code == "o":
                write(moment.data)
            elif moment.code == "m":
                write(f"\r\n[{moment.data}]\r\n")
    finally:
        write(RESET)


def shortened(moments: Sequence[Moment], idle_limit_s: float) -> list[Moment]:
    """The same events with no pause longer than the limit."""
    result: list[Moment] = []
    last = at = 0.0
    for moment in moments:
        at += min(max(moment.seconds - last, 0.0), idle_limit_s)
        last = moment.seconds
        result.append(moment._replace(seconds=at))
    return result


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, UnicodeDecodeError, RecursionError):
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e10
