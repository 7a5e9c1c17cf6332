"""Maps a character of a YAML string to its line and column: strings may be quoted, folded, or blocks."""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|\n\s*|.)")


def position_inside(source: str, mark: tuple[int, int], value: str, line: int, column: int) -> tuple[int, int]:
    """Line and column in `source` of the character at `line` and `column` of `value`, which begins at `mark`.

    All four count from 1. YAML may fold and indent blanks, but keeps the order of all other characters: only those are
    counted.
    """
    at = _offset(source, *mark)
    lines = value.split("\n")
    before = "\n".join([*lines[: line - 1], lines[line - 1][: column - 1]] if line <= len(lines) else lines)
    is_after_word = before[-1:].strip() != "" and not _character(value, len(before)).strip()  # at the end of a word
    count = len("".join(before.split()))
    style = source[at : at + 1]
    if style in ("|", ">"):
        at = source.find("\n", at) + 1
    elif style in ('"', "'"):
        at += 1
    position = at
    for _ in range(count if is_after_word else count + 1):
        at = _skip_blanks(source, at, style)
        position, at = at, at + _width(source, at, style)
    return _line_and_column(source, at if is_after_word else position)


def _character(text: str, index: int) -> str:
    return text[index : index + 1]


def _offset(source: str, line: int, column: int) -> int:
    at = 0
    for _ in range(line - 1):
        at = source.index("\n", at) + 1
    return at + column - 1


def _skip_blanks(source: str, at: int, style: str) -> int:
    while at < len(source):
        escape = _ESCAPE.match(source, at) if style == '"' else None
        if escape is not None and (escape[0][1:2] in " tnr\n" or not escape[0][1:].strip()):
            at = escape.end()
        elif source[at].isspace():
            at += 1
        else:
            break
    return at


def _width(source: str, at: int, style: str) -> int:
    """The number of characters in the file that represent one character of the value."""
    if style == '"' and (escape := _ESCAPE.match(source, at)):
        return len(escape[0])
    return 2 if style == "'" and source.startswith("''", at) else 1


def _line_and_column(source: str, at: int) -> tuple[int, int]:
    at = min(at, len(source))
    return source.count("\n", 0, at) + 1, at - (source.rfind("\n", 0, at) + 1) + 1
