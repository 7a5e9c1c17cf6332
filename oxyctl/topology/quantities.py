"""Durations, percentages and one-element lists in lab files."""

from __future__ import annotations

Duration = float | str  # seconds, or 250ms, 5s, 1m30s
Share = float | str  # 0 to 1, or 0% to 100%
Texts = str | list[str]


def seconds(value: Duration) -> float:
    """Seconds of `2.5` or `"250ms"`; ValueError."""
    from proxy.control.schema import parse_duration

    result = parse_duration(value) if isinstance(value, str) else value
    if result <= 0:
        raise ValueError(f"not a duration: {value!r} (more than 0 is needed)")
    return result


def share(value: Share) -> float:
    """0 to 1 of `0.01` or `"1%"`; ValueError."""
    try:
        result = (
            float(value.removesuffix("%")) / (100 if value.endswith("%") else 1) if isinstance(value, str) else value
        )
    except ValueError:
        result = -1
    if not 0 <= result <= 1:
        raise ValueError(f"not a share: {value!r} (write 0.01 or 1%)")
    return result


def texts(value: Texts) -> list[str]:
    """One or many, as many."""
    return [value] if isinstance(value, str) else value
