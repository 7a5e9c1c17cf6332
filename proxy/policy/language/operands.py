"""The operands of expressions: a field, a part of it, or each of its elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.policy.language.errors import ExpressionError
from proxy.policy.language.fields import Field, Fields, Kind
from proxy.policy.language.tree import Path
from proxy.settings import suggest


@dataclass(frozen=True, slots=True)
class Operand:
    """A value from the facts: `read(facts)` returns it, or None if it is missing."""

    kind: Kind
    read: Callable[[Any], Any]
    is_array: bool = False  # a whole array
    is_each: bool = False  # the elements of one, as a tuple
    field: Field | None = None  # if the operand is this field, or each of its elements
    choices: tuple[str, ...] = ()

    @property
    def described(self) -> str:
        """A description of its type, for messages."""
        return f"array of {self.kind}" if self.is_array or self.is_each else str(self.kind)


def operand_of_path(path: Path, fields: Fields) -> Operand:
    """The operand that a path names. ExpressionError: it is unknown, or has no such part."""
    named = path.name + "".join("[*]" if step is None else str(step) for step in path.steps)
    field = fields.by_name.get(named)  # `identity.groups[*].name` is the name of a field
    if field is not None and field.is_array and "[*]" in field.name:
        return _each(field)
    if any(isinstance(step, str) and step.startswith(".") for step in path.steps):
        raise _unknown(path, fields, named)
    field = fields.by_name.get(path.name)
    if field is None:
        raise _unknown(path, fields, path.name)
    if field.is_map:
        return _of_map(field, path)
    if not path.steps:
        return Operand(field.kind, _reader(field.name), field.is_array, field=field, choices=field.choices)
    if not field.is_array:
        raise ExpressionError(f"{field.name} is a {field.described}, not an array: it has no [ ]", *path.at)
    return _of_array(_reader(field.name), field, path.steps, path)


def _of_map(field: Field, path: Path) -> Operand:
    if not path.steps or not isinstance(path.steps[0], str):
        raise ExpressionError(f'{field.name} is a map: write {field.name}["name"][*]', *path.at)
    name, key = field.name, path.steps[0].lower()

    def read(facts: Any) -> Any:
        values = facts[name]
        return None if values is None else values.get(key)

    if len(path.steps) == 1:
        return Operand(field.kind, read, is_array=True)
    operand = _of_array(read, field, path.steps[1:], path)
    return Operand(operand.kind, operand.read, is_each=operand.is_each)


def _of_array(read: Callable[[Any], Any], field: Field, steps: tuple[str | int | None, ...], path: Path) -> Operand:
    step, *more = steps
    if more or isinstance(step, str):
        raise ExpressionError(f"{path.text}: a {field.kind} has no parts", *path.at)
    if step is None:
        return Operand(field.kind, read, is_each=True, field=None if field.is_map else field, choices=field.choices)
    index: int = step

    def nth(facts: Any) -> Any:
        values = read(facts)
        return values[index] if values is not None and index < len(values) else None

    return Operand(field.kind, nth, choices=field.choices)


def _each(field: Field) -> Operand:
    return Operand(field.kind, _reader(field.name), is_each=True, field=field, choices=field.choices)


def _reader(name: str) -> Callable[[Any], Any]:
    return lambda facts: facts[name]


def _unknown(path: Path, fields: Fields, name: str) -> ExpressionError:
    if (phase := fields.elsewhere.get(name)) is not None:
        return ExpressionError(f"{name} is not known in phase {fields.phase}: it is in {phase}", *path.at)
    known = [each for each in fields.by_name if each.split(".")[0] == name.split(".")[0]] or list(fields.by_name)
    hint = suggest(name, fields.by_name)
    hint = hint if "did you mean" in hint else suggest(name, known)
    return ExpressionError(f"unknown field '{name}'{hint}", *path.at)
