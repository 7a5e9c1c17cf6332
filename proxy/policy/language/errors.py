"""Errors in expressions, with their position."""

from __future__ import annotations


class ExpressionError(Exception):
    """One mistake. `line` and `column` count from 1 inside the expression, and may come from a `Spot`.

    `str()` is `line:column: message`.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1, *_span: int) -> None:
        super().__init__(f"{line}:{column}: {message}")
        self.message, self.line, self.column = message, line, column
