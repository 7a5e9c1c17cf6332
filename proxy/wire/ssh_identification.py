"""The identification string with which both sides of SSH begin (RFC 4253 4.2)."""

from __future__ import annotations

START = b"SSH-"
MAX_LINE = 255  # including CR LF


def identification(data: bytes) -> str | None:
    """The identification string at the start of `data`, such as `SSH-2.0-OpenSSH_9.2p1`; None if there is none.

    Anything but printable US-ASCII is replaced by question marks.
    """
    if not data.startswith(START):
        return None
    line = data[:MAX_LINE].partition(b"\n")[0].rstrip(b"\r")
    return "".join(chr(each) if 0x20 <= each < 0x7F else "?" for each in line)
