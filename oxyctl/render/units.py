"""Formats bytes, durations and times; makes untrusted text safe for a terminal."""

from __future__ import annotations

from datetime import datetime

_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def bytes_text(count: int) -> str:
    """Bytes as text: `118 B`, `2.1 kB`, `940 MB`, in steps of 1000."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_BYTE_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 1 if unit and value < 9.95 else 0
    return f"{value:.{digits}f} {_BYTE_UNITS[unit]}"


def count_text(count: int, noun: str) -> str:
    """A count with its noun: `1 record`, `2 records`. Nouns that take more than an `s` are not supported."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def endpoint_text(host: str, port: int) -> str:
    """An address or name with a port: `10.0.0.1:80`, `[fd00::1]:80`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def duration_text(milliseconds: float) -> str:
    """A duration as text: `0.4 ms`, `12 ms`, `1.3 s`, `3m20s`, `2h05m`, `3d04h`."""
    if milliseconds < 9.95:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f} s"
    seconds = round(milliseconds / 1000)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if hours == 0:
        return f"{minutes}m{seconds % 60:02}s"
    return f"{hours}h{minutes % 60:02}m" if days == 0 else f"{days}d{hours % 24:02}h"


def time_text(nanoseconds: int, *, date: bool = False) -> str:
    """A time as `14:00:03`, or with its date as `2026-01-31 14:00:03`, in the local time zone."""
    moment = datetime.fromtimestamp(nanoseconds / 1e9)
    return moment.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S")


def safe_text(text: str) -> str:
    """Text without control characters, since clients choose some of these names."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def cells(text: str) -> int:
    """The number of terminal columns that `text` takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # 60 ms to import: only for names that need it

    return cell_len(text)
