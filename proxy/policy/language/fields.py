"""The fields of expressions and their types, one set for each phase."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class Kind(enum.StrEnum):
    """The type of one value. An address is its 4 or 16 bytes, a number an int or a float."""

    TEXT = "text"
    NUMBER = "number"
    ADDRESS = "address"
    FLAG = "true or false"


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `name` is also its key among the facts."""

    name: str  # `identity.groups[*].name` is an array of texts under this key
    kind: Kind
    doc: str = ""
    is_array: bool = False  # a tuple of values
    is_map: bool = False  # from names to arrays, like headers; keys in lower case
    choices: tuple[str, ...] = ()  # the possible values of a text

    @property
    def described(self) -> str:
        """A description of its type, for messages."""
        if self.is_map:
            return f"map of arrays of {self.kind}"
        return f"array of {self.kind}" if self.is_array else str(self.kind)


class Fields:
    """The fields of one phase. `elsewhere`: for fields of other phases, the phases that have them."""

    def __init__(self, phase: str, fields: Iterable[Field], elsewhere: Mapping[str, str] | None = None) -> None:
        self.phase = phase
        self.by_name = {field.name: field for field in fields}
        self.elsewhere = elsewhere or {}

    def __iter__(self) -> Any:
        return iter(self.by_name.values())


class Facts(dict[str, Any]):
    """Values by field name. Missing ones are None, which matches nothing."""

    __slots__ = ()

    def __missing__(self, key: str) -> Any:
        return None
