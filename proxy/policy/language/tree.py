"""The syntax tree of an expression, with positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MAX_CHARACTERS = 4_096  # of one expression, as in Cloudflare's rules


class Spot(NamedTuple):
    """A position in the text of an expression: line and column from 1, and the characters from `start` to `end`."""

    line: int
    column: int
    start: int = 0
    end: int = 0


BEGINNING = Spot(1, 1)


@dataclass(frozen=True, slots=True)
class Literal:
    """A value. Addresses remain text here: `10.0.0.1` is allowed in places where `10.0.0.0/8` is not."""

    at: Spot
    value: str | float | bool
    is_address: bool = False


@dataclass(frozen=True, slots=True)
class Path:
    """A field, with its steps: `identity.groups[*].name`, `http.request.headers["accept"][0]`."""

    at: Spot
    name: str  # up to the first bracket
    steps: tuple[str | int | None, ...] = ()  # None: `[*]`, text: `["x"]`, a number: `[0]`; `.name` begins with a dot
    text: str = ""  # source text, without blanks


@dataclass(frozen=True, slots=True)
class Call:
    """A function with its arguments."""

    at: Spot
    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`left operator right`; the operator is the symbol or, without one, the word: `==`, `contains`."""

    at: Spot
    operator: str
    operator_at: Spot
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Range:
    """`low..high`, both included."""

    at: Spot
    low: Literal
    high: Literal


@dataclass(frozen=True, slots=True)
class Membership:
    """`left in {…}`, or `left in $list`."""

    at: Spot
    left: Node
    items: tuple[Literal | Range, ...] = ()
    list_name: str | None = None
    list_at: Spot = BEGINNING


@dataclass(frozen=True, slots=True)
class Not:
    """A negated condition."""

    at: Spot
    inner: Node


@dataclass(frozen=True, slots=True)
class Logic:
    """Several conditions joined by the same operator: `and`, `or`, `xor`."""

    at: Spot
    word: str
    parts: tuple[Node, ...]


Node = Literal | Path | Call | Comparison | Membership | Not | Logic
