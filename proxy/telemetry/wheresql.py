"""A condition of `--where` as SQL over the narrow table: logic, and tests of numbers and addresses, become SQL; a test
of a text is run once for each text in the file."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from proxy.flow.where import FIELDS, SOURCES
from proxy.policy.language import Facts, Kind, Values, parse
from proxy.policy.language.compile import Compiler
from proxy.policy.language.sets import NumberSet, constant, values_of
from proxy.policy.language.tree import Call, Comparison, Literal, Logic, Membership, Node, Not, Path
from proxy.telemetry.rows import STRING_COLUMNS

_COLUMNS = {source.field.name: source.name for source in SOURCES} | {
    "flow.bytes": "(up + down)",
    "flow.duration_s": "((ended - started) / 1e6 / 1000)",
}
_NUMBERS = ("==", "!=", "<", "<=", ">", ">=")
_MAX_INTEGER = 2**63 - 1

Predicate = Callable[..., bool]


class WhereSql(NamedTuple):
    """A condition, the arguments of its placeholders, and the functions that it calls."""

    condition: str
    arguments: tuple[Any, ...]
    functions: tuple[tuple[str, int, Predicate], ...]  # name, number of arguments, function

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Register the functions."""
        for name, count, predicate in self.functions:
            connection.create_function(name, count, predicate, deterministic=True)


@functools.lru_cache(64)  # called several times per answer
def where_sql(text: str) -> WhereSql:
    """The condition in `text`, which `proxy.flow.where.check` has accepted."""
    writer = _Writer()
    condition = writer.write(parse(text))
    return WhereSql(condition, tuple(writer.arguments), tuple(writer.functions))


class _Writer:
    """Writes a tree from left to right, in the order of its placeholders. Every part is true or false, never NULL: a
    comparison with an unknown value is false."""

    def __init__(self) -> None:
        self.arguments: list[Any] = []
        self.functions: list[tuple[str, int, Predicate]] = []
        self._compiler = Compiler(FIELDS, {})

    def write(self, node: Node) -> str:
        if isinstance(node, Logic):
            if node.word == "xor":
                return "((" + " + ".join(self.write(part) for part in node.parts) + ") % 2)"
            return "(" + f" {node.word.upper()} ".join(self.write(part) for part in node.parts) + ")"
        if isinstance(node, Not):
            return f"(NOT {self.write(node.inner)})"
        if isinstance(node, Comparison) and (field := _field_alone(node.left)) is not None:
            name, kind = field
            if isinstance(node.right, Literal) and kind is Kind.NUMBER and node.operator in _NUMBERS:
                return self._compare_number(_COLUMNS[name], node.operator, constant(node.right, kind))
            if (other := _field_alone(node.right)) is not None and node.operator in _NUMBERS:
                self._compiler.whole(node)  # checks that both are of one kind
                operator = "==" if node.operator == "!=" else node.operator
                predicate = f"(({_COLUMNS[name]} {operator} {_COLUMNS[other[0]]}) IS TRUE)"
                return predicate if node.operator == operator else f"(NOT {predicate})"
            if isinstance(node.right, Literal) and node.operator in ("==", "!="):
                same = self._is_one_of(name, Values(kind, frozenset({constant(node.right, kind)})))
                return same if node.operator == "==" else f"(NOT {same})"
        if isinstance(node, Membership) and (field := _field_alone(node.left)) is not None:
            return self._is_one_of(field[0], values_of(node.items, field[1]))
        return self._as_function(node)

    def _compare_number(self, column: str, operator: str, value: Any) -> str:
        self.arguments.append(_bounded(value))
        return f"(({column} {operator} ?) IS TRUE)" if operator != "!=" else f"({column} IS NOT ?)"

    def _is_one_of(self, name: str, values: Values) -> str:
        column = _COLUMNS[name]
        if values.kind is Kind.TEXT:
            self.arguments += sorted(map(str, values.single))
            ids = f"SELECT id FROM words WHERE text IN ({','.join('?' * len(values.single))})"
            return f"(({column} IN ({ids})) IS TRUE)"
        spans = list(_spans(values))
        self.arguments += [end for span in spans for end in span]
        return f"(({' OR '.join([f'{column} BETWEEN ? AND ?'] * len(spans)) or '0'}) IS TRUE)"

    def _as_function(self, node: Node) -> str:
        """A test that needs its compiled function: run once per text if it reads one text field, else once per row."""
        test = self._compiler.whole(node).test
        names = sorted({path.name for path in _paths(node)})
        function = f"where_{len(self.functions)}"
        if len(names) == 1 and _COLUMNS[names[0]] in STRING_COLUMNS:
            self.functions.append((function, 1, lambda text: test(Facts({names[0]: text}))))
            column = _COLUMNS[names[0]]
            absent = f" OR {column} IS NULL" if test(Facts()) else ""
            return f"((({column} IN (SELECT id FROM words WHERE {function}(text))) IS TRUE){absent})"
        reads = [_decoded if FIELDS.by_name[name].kind is Kind.ADDRESS else None for name in names]

        def predicate(*values: Any) -> bool:
            decoded = (read(value) if read else value for read, value in zip(reads, values, strict=True))
            return bool(test(Facts(zip(names, decoded, strict=True))))

        self.functions.append((function, len(names), predicate))
        return f"{function}({', '.join(map(_argument, names))})"


def _field_alone(node: Node) -> tuple[str, Kind] | None:
    """The field, and its kind, if the node is nothing else; otherwise None."""
    if isinstance(node, Path) and not node.steps:
        return node.name, FIELDS.by_name[node.name].kind
    return None


def _paths(node: Node) -> Iterator[Path]:
    """The fields that the node reads."""
    if isinstance(node, Path):
        yield node
    parts: tuple[Node, ...] = ()
    if isinstance(node, Call):
        parts = node.arguments
    elif isinstance(node, Comparison):
        parts = node.left, node.right
    elif isinstance(node, Membership):
        parts = (node.left,)
    elif isinstance(node, Not):
        parts = (node.inner,)
    elif isinstance(node, Logic):
        parts = node.parts
    for part in parts:
        yield from _paths(part)


def _spans(values: Values) -> Iterator[tuple[Any, Any]]:
    """First and last of each run of values, as stored in columns."""
    if values.kind is Kind.ADDRESS:
        for value in values.single:
            assert isinstance(value, bytes)
            yield _stored(value), _stored(value)
        for network in values.networks:
            yield _stored(network.network_address.packed), _stored(network.broadcast_address.packed)
        return
    for value in values.single:
        yield _bounded(value), _bounded(value)
    for low, high in NumberSet(frozenset(), values.ranges).spans():
        yield _bounded(low), _bounded(high)


def _stored(address: bytes) -> bytes:
    return (b"\x04" if len(address) == 4 else b"\x06") + address


def _decoded(stored: bytes) -> bytes:
    return stored[1:]


def _bounded(value: Any) -> Any:
    """A number for SQLite. Integers out of its range are compared as floats."""
    return float(value) if isinstance(value, int) and abs(value) > _MAX_INTEGER else value


def _argument(name: str) -> str:
    column = _COLUMNS[name]
    return f"(SELECT text FROM words WHERE id = {column})" if column in STRING_COLUMNS else column
