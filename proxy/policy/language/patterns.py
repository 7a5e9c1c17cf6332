"""Pattern matching in time linear in the text: RE2 expressions, and wildcards."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from proxy.policy.language.errors import ExpressionError
from proxy.policy.language.tree import Spot

Test = Callable[[str], bool]

REMEMBERED = 1_024  # cached results of one regular expression
SHORT = 256  # maximum length of cached texts

_MAX_MEMORY = 2 << 20  # of one compiled expression


def regular_expression(pattern: str, at: Spot) -> Test:
    """A function that returns whether a text contains a match. ExpressionError: RE2 rejects the pattern."""
    import re2  # 3 MB: loaded only for such conditions

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        compiled = re2.compile(pattern, options=options)
    except re2.error as error:
        detail = error.args[0] if error.args else "not valid"
        text = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        raise ExpressionError(f"regular expression: {text}", *at) from None
    # A set of two, of which the empty one matches every text: 0.7 us where search() takes 4. If it is not among the
    # results, the set ran out of memory, which it does not report; search() then uses another algorithm.
    both = re2.Set.SearchSet(options)
    both.Add(pattern)
    both.Add("")
    both.Compile()
    search: Any = compiled.search
    match: Any = both.Match

    def test(text: str) -> bool:
        found = match(text)
        return found[0] == 0 or len(found) > 1 if found else search(text) is not None

    # host names and users recur often: 0.1 us
    again = functools.lru_cache(REMEMBERED)(test)
    return lambda text: again(text) if len(text) <= SHORT else test(text)


def wildcard(pattern: str, *, strict: bool) -> Test:
    r"""A test of a whole text: `*` matches any characters, `\*` an asterisk; `strict`: case-sensitive."""
    parts = _parts(pattern if strict else pattern.lower())
    if len(parts) == 1:
        whole = parts[0]
        return (lambda text: text == whole) if strict else (lambda text: text.lower() == whole)
    first, *middle, last = parts
    shortest = len(first) + len(last)

    def test(text: str) -> bool:
        text = text if strict else text.lower()
        if len(text) < shortest or not text.startswith(first) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for part in middle:
            found = text.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    return test


def _parts(pattern: str) -> list[str]:
    parts, part, characters = [], "", iter(pattern)
    for character in characters:
        if character == "*":
            parts.append(part)
            part = ""
        else:
            part += next(characters, "\\") if character == "\\" else character
    return [*parts, part]
