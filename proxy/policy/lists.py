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
        self, document: Document, written: Mapping[str, ListText | list[str | int]], read_file: ReadFile,
        known: Mapping[str, Values],
    ) -> None:  # fmt: skip
        """`known`: lists of the global policies, which this file may use too."""
        self._document, self._written, self._read_file = document, written, read_file
        self._done: dict[str, Values] = dict(known)
        self._open: list[str] = []

    def all(self) -> dict[str, Values]:
        """All lists by name. DocumentError: a value is invalid, or lists include each other."""
        for name in self._written:
            self._done.pop(name, None)  # its own, not a global one of the same name
        for name in self._written:
            self._values(name, lambda message: self._document.error(message))
        return self._done

    def _values(self, name: str, wrong: Callable[[str], DocumentError]) -> Values:
        if name in self._open:
            circle = " -> ".join(f"${each}" for each in (*self._open[self._open.index(name) :], name))
            raise wrong(f"lists include each other: {circle}")
        if name in self._done:
            return self._done[name]
        if name not in self._written:
            raise wrong(f"unknown list '${name}'{suggest(name, {*self._done, *self._written})}")
        self._open.append(name)
        gathered = _Gathered()
        for text, wrong_here in self._entries(name):
            if text.startswith("$"):
                gathered.include(self._values(text[1:], wrong_here), wrong_here)
            else:
                gathered.add(text, wrong_here)
        self._open.pop()
        self._done[name] = values = gathered.values()
        return values

    def _entries(self, name: str) -> Iterator[Entry]:
        document, written, place = self._document, self._written[name], ("lists", name)
        values = written if isinstance(written, list) else written.values
        inside: Place = place if isinstance(written, list) else (*place, "values")
        for index, value in enumerate(values):
            yield str(value).strip(), _telling(document, (*inside, index))
        if isinstance(written, ListText) and written.file is not None:
            text = self._read_file(written.file, document, (*place, "file"))
            for number, line in enumerate(text.split("\n"), 1):
                if value := line.partition("#")[0].strip():
                    yield value, _telling_line(written.file, number, line.index(value[0]) + 1)


class _Gathered:
    """Values of one type, determined by the first of them."""

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self._single: set[str | float | bool | bytes] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._ranges: list[tuple[float, float]] = []

    def include(self, values: Values, wrong: Callable[[str], DocumentError]) -> None:
        self._be(values.kind, wrong)
        self._single |= values.single
        self._networks += values.networks
        self._ranges += values.ranges

    def add(self, text: str, wrong: Callable[[str], DocumentError]) -> None:
        if len(self._single) + len(self._networks) + len(self._ranges) >= MAX_VALUES:
            raise wrong(f"more than {MAX_VALUES:,} values")
        if len(text) > MAX_CHARACTERS:
            raise wrong(f"a value has at most {MAX_CHARACTERS:,} characters ({len(text):,})")
        if _NUMBER.fullmatch(text):
            self._be(Kind.NUMBER, wrong)
            self._single.add(int(text))
        elif match := _NUMBERS.fullmatch(text):
            self._be(Kind.NUMBER, wrong)
            if int(match[1]) > int(match[2]):
                raise wrong(f"a range goes from low to high (found {text})")
            self._ranges.append((int(match[1]), int(match[2])))
        elif (network := _network(text, wrong)) is not None:
            self._be(Kind.ADDRESS, wrong)
            if network.prefixlen == network.max_prefixlen:
                self._single.add(network.network_address.packed)
            else:
                self._networks.append(network)
        else:
            self._be(Kind.TEXT, wrong)
            self._single.add(text)

    def values(self) -> Values:
        return Values(self.kind or Kind.TEXT, frozenset(self._single), tuple(self._ranges), tuple(self._networks))

    def _be(self, kind: Kind, wrong: Callable[[str], DocumentError]) -> None:
        if self.kind is not None and self.kind is not kind:
            raise wrong(f"a list holds values of one kind: {self.kind} so far, and here {kind}")
        self.kind = kind


def _network(text: str, wrong: Callable[[str], DocumentError]) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    raise wrong(f"{text} has bits behind its prefix; did you mean {meant}?")


def _telling(document: Document, place: Place) -> Callable[[str], DocumentError]:
    return lambda message: document.error(message, place)


def _telling_line(file: str, line: int, column: int) -> Callable[[str], DocumentError]:
    return lambda message: DocumentError(message, file, line, column)
