"""Named lists: values that rules refer to as `$office`, from a policy or from files beside it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping

from proxy.policy.language import MAX_CHARACTERS, Kind, Values
from proxy.policy.model import ListText
from proxy.settings import Document, DocumentError, suggest
from proxy.settings.document import Place

MAX_VALUES = 1_000_000  # per list

ReadFile = Callable[[str, Document, Place], str]  # the text of a file that a document names there; DocumentError
Entry = tuple[str, Callable[[str], DocumentError]]  # source text, and the function that makes its error
_NUMBER = re.compile(r"\d+")
_NUMBERS = re.compile(r"(\d+)(?:-|\.\.)(\d+)")


class Lists:
    """All lists of one file. Each is assembled once, with the lists that it includes."""

    def __init__(
        self, document: Document, definitions: Mapping[str, ListText | list[str | int]], read_file: ReadFile,
        global_lists: Mapping[str, Values],
    ) -> None:  # fmt: skip
        """`global_lists`: lists of the global policies, which this file may use too."""
        self._document, self._definitions, self._read_file = document, definitions, read_file
        self._resolved: dict[str, Values] = dict(global_lists)
        self._in_progress: list[str] = []

    def all(self) -> dict[str, Values]:
        """All lists by name. DocumentError: a value is invalid, or lists include each other."""
        for name in self._definitions:
            self._resolved.pop(name, None)  # its own, not a global one of the same name
        for name in self._definitions:
            self._values(name, lambda message: self._document.error(message))
        return self._resolved

    def _values(self, name: str, make_error: Callable[[str], DocumentError]) -> Values:
        if name in self._in_progress:
            cycle = " -> ".join(f"${each}" for each in (*self._in_progress[self._in_progress.index(name) :], name))
            raise make_error(f"lists include each other: {cycle}")
        if name in self._resolved:
            return self._resolved[name]
        if name not in self._definitions:
            raise make_error(f"unknown list '${name}'{suggest(name, {*self._resolved, *self._definitions})}")
        self._in_progress.append(name)
        builder = _ListBuilder()
        for text, make_entry_error in self._entries(name):
            if text.startswith("$"):
                builder.include(self._values(text[1:], make_entry_error), make_entry_error)
            else:
                builder.add(text, make_entry_error)
        self._in_progress.pop()
        self._resolved[name] = values = builder.values()
        return values

    def _entries(self, name: str) -> Iterator[Entry]:
        document, definition, place = self._document, self._definitions[name], ("lists", name)
        values = definition if isinstance(definition, list) else definition.values
        values_place: Place = place if isinstance(definition, list) else (*place, "values")
        for index, value in enumerate(values):
            yield str(value).strip(), _error_at(document, (*values_place, index))
        if isinstance(definition, ListText) and definition.file is not None:
            text = self._read_file(definition.file, document, (*place, "file"))
            for number, line in enumerate(text.split("\n"), 1):
                if value := line.partition("#")[0].strip():
                    yield value, _error_at_line(definition.file, number, line.index(value[0]) + 1)


class _ListBuilder:
    """Values of one type, determined by the first of them."""

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self._single: set[str | float | bool | bytes] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._ranges: list[tuple[float, float]] = []

    def include(self, values: Values, make_error: Callable[[str], DocumentError]) -> None:
        self._set_kind(values.kind, make_error)
        self._single |= values.single
        self._networks += values.networks
        self._ranges += values.ranges

    def add(self, text: str, make_error: Callable[[str], DocumentError]) -> None:
        if len(self._single) + len(self._networks) + len(self._ranges) >= MAX_VALUES:
            raise make_error(f"more than {MAX_VALUES:,} values")
        if len(text) > MAX_CHARACTERS:
            raise make_error(f"a value has at most {MAX_CHARACTERS:,} characters ({len(text):,})")
        if _NUMBER.fullmatch(text):
            self._set_kind(Kind.NUMBER, make_error)
            self._single.add(int(text))
        elif match := _NUMBERS.fullmatch(text):
            self._set_kind(Kind.NUMBER, make_error)
            if int(match[1]) > int(match[2]):
                raise make_error(f"a range goes from low to high (found {text})")
            self._ranges.append((int(match[1]), int(match[2])))
        elif (network := _network(text, make_error)) is not None:
            self._set_kind(Kind.ADDRESS, make_error)
            if network.prefixlen == network.max_prefixlen:
                self._single.add(network.network_address.packed)
            else:
                self._networks.append(network)
        else:
            self._set_kind(Kind.TEXT, make_error)
            self._single.add(text)

    def values(self) -> Values:
        return Values(self.kind or Kind.TEXT, frozenset(self._single), tuple(self._ranges), tuple(self._networks))

    def _set_kind(self, kind: Kind, make_error: Callable[[str], DocumentError]) -> None:
        if self.kind is not None and self.kind is not kind:
            raise make_error(f"a list holds values of one kind: {self.kind} so far, and here {kind}")
        self.kind = kind


def _network(
    text: str, make_error: Callable[[str], DocumentError]
) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        masked = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    raise make_error(f"{text} has host bits set; did you mean {masked}?")


def _error_at(document: Document, place: Place) -> Callable[[str], DocumentError]:
    return lambda message: document.error(message, place)


def _error_at_line(file: str, line: int, column: int) -> Callable[[str], DocumentError]:
    return lambda message: DocumentError(message, file, line, column)
