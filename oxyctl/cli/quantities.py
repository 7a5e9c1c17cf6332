"""Parses sizes and durations: `10MB`, `64KiB`, `90s`, `1.5m`; a bare number is bytes or seconds."""

from __future__ import annotations

import re

from oxyctl.errors import UsageError

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_BYTES = {"": 1, "b": 1} | {
    prefix + suffix: step**power
    for power, prefix in enumerate("kmgt", 1)
    for suffix, step in (("", 1000), ("b", 1000), ("ib", 1024))
}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str, option: str) -> int:
    """A size in bytes, at least 1. UsageError names the `option`."""
    size = int(_parse(text, {k: float(v) for k, v in _BYTES.items()}, option, "a size such as 10MB or 64KiB"))
    if size < 1:
        raise UsageError(f"{option}: a size must be at least one byte")
    return size


def parse_duration(text: str, option: str) -> float:
    """A duration in seconds, more than 0. UsageError names the `option`."""
    seconds = _parse(text, _SECONDS, option, "a duration such as 10s, 500ms or 2m")
    if seconds <= 0:
        raise UsageError(f"{option}: a duration must be more than 0")
    return seconds


def _parse(text: str, units: dict[str, float], option: str, expected: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        raise UsageError(f"{option}: expected {expected} (found {text!r})")
    return float(match[1]) * units[match[2].lower()]
