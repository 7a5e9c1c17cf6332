"""Durations, percentages and one-element lists in lab files."""

from __future__ import annotations

Duration = float | str  # seconds, or 250ms, 5s, 1m30s
Share = float | str  # 0 to 1, or 0% to 100%
Texts = str | list[str]


def seconds(value: Duration) -> float:
    """The seconds in `2.5` or `"250ms"`. ValueError: not a duration above 0."""
    from proxy.control.schema import parse_duration

    result = parse_duration(value) if isinstance(value, str) else value
    if result <= 0:
        raise ValueError(f"not a duration: {value!r} (it must be more than 0)")
    return result


def share(value: Share) -> float:
    """The fraction, 0 to 1, in `0.01` or `"1%"`. ValueError: not a share."""
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
    """A list of one string, or the list itself."""
    return [value] if isinstance(value, str) else value
