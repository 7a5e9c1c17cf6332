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


def is_met(expected: Any, found: Any) -> bool:
    """Whether `found` equals `expected` or one of a list, or meets it: `">= 100"`, `"!= client"`, `"~ ^10"`."""
    if isinstance(expected, list):
        return any(is_met(each, found) for each in expected)
    if not isinstance(expected, str):
        return bool(expected == found)
    if expected.startswith("~"):
        return found is not None and re.search(expected[1:].strip(), str(found)) is not None
    for sign, compare in COMPARISONS.items():
        if expected.startswith(sign):
            return _compares(compare, found, expected.removeprefix(sign).strip())
    return found is not None and str(found) == expected


def check_expected(expected: Any) -> None:
    """Raise ValueError or re.error for a comparison with an invalid number or regular expression."""
    if isinstance(expected, list):
        for each in expected:
            check_expected(each)
    elif isinstance(expected, str) and expected.startswith("~"):
        re.compile(expected[1:].strip())
    elif isinstance(expected, str) and (sign := next((s for s in COMPARISONS if expected.startswith(s)), None)):
        rest = expected.removeprefix(sign).strip()
        if sign not in ("!=", "=="):
            _number(rest)


def _compares(compare: Callable[[Any, Any], bool], found: Any, expected: str) -> bool:
    """Compare numbers as numbers, all else as text. None is neither more nor less than anything."""
    if isinstance(found, int | float) and not isinstance(found, bool):
        return compare(found, _number(expected))
    if compare in (operator.eq, operator.ne):
        return compare("" if found is None else str(found), expected)
    return False


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"not a number: {text!r}") from None
