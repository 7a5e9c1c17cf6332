"""The fields of expressions and their types, one set for each phase."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class Kind(enum.StrEnum):
    """Of one value. An address is its 4 or 16 bytes, a number an int or a float."""

    TEXT = "text"
    NUMBER = "number"
    ADDRESS = "address"
    FLAG = "true or false"


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that is known. `name` is also its key among the facts."""

    name: str  # `identity.groups[*].name` is an array of texts under that very key
    kind: Kind
    doc: str = ""
    is_array: bool = False  # a tuple of values
    is_map: bool = False  # of names to arrays, as headers are: keys in lower case
    choices: tuple[str, ...] = ()  # of a text that is one of these

    @property
    def described(self) -> str:
        """Its kind, for people."""
        if self.is_map:
            return f"map of arrays of {self.kind}"
        return f"array of {self.kind}" if self.is_array else str(self.kind)


class Fields:
    """The fields of one phase. `elsewhere` names, for fields of other phases, where they are known."""

    def __init__(self, phase: str, fields: Iterable[Field], elsewhere: Mapping[str, str] | None = None) -> None:
        self.phase = phase
        self.by_name = {field.name: field for field in fields}
        self.elsewhere = elsewhere or {}

    def __iter__(self) -> Any:
        return iter(self.by_name.values())


class Facts(dict[str, Any]):
    """Values by field name. What is missing is None, and nothing compares to it."""

    __slots__ = ()

    def __missing__(self, key: str) -> Any:
        return None
