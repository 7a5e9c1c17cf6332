"""Expected values in checks: a value, one of several, or a comparison."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


def is_met(expected: Any, actual: Any) -> bool:
    """Whether `actual` equals `expected` or one of a list, or meets it: `">= 100"`, `"!= client"`, `"~ ^10"`."""
    if isinstance(expected, list):
        return any(is_met(alternative, actual) for alternative in expected)
    if not isinstance(expected, str):
        return bool(expected == actual)
    if expected.startswith("~"):
        return actual is not None and re.search(expected[1:].strip(), str(actual)) is not None
    for sign, compare in COMPARISONS.items():
        if expected.startswith(sign):
            return _compares(compare, actual, expected.removeprefix(sign).strip())
    return actual is not None and str(actual) == expected


def check_expected(expected: Any) -> None:
    """Raise ValueError or re.error for a comparison with an invalid number or regular expression."""
    if isinstance(expected, list):
        for alternative in expected:
            check_expected(alternative)
    elif isinstance(expected, str) and expected.startswith("~"):
        re.compile(expected[1:].strip())
    elif isinstance(expected, str) and (sign := next((s for s in COMPARISONS if expected.startswith(s)), None)):
        rest = expected.removeprefix(sign).strip()
        if sign not in ("!=", "=="):
            _number(rest)


def _compares(compare: Callable[[Any, Any], bool], actual: Any, expected: str) -> bool:
    """Compare numbers as numbers, all else as text. None is neither more nor less than anything."""
    if isinstance(actual, int | float) and not isinstance(actual, bool):
        return compare(actual, _number(expected))
    if compare in (operator.eq, operator.ne):
        return compare("" if actual is None else str(actual), expected)
    return False


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"not a number: {text!r}") from None
