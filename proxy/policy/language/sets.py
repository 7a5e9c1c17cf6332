"""Sets of values, from braces and named lists, and whether two of them can have a common value."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network, summarize_address_range

from proxy.policy.language.errors import ExpressionError
from proxy.policy.language.fields import Kind
from proxy.policy.language.prefixes import Network, PrefixSet
from proxy.policy.language.tree import Literal, Range, Spot
from proxy.settings import suggest

Scalar = str | float | bool | bytes


class NumberSet:
    """Numbers, some of them in ranges: `443 in set`."""

    __slots__ = ("_highs", "_lows", "_single")

    def __init__(self, single: frozenset[Scalar], ranges: Iterable[tuple[float, float]]) -> None:
        self._single = single
        self._lows: list[float] = []
        self._highs: list[float] = []
        for low, high in sorted(ranges):
            if self._highs and low <= self._highs[-1]:
                self._highs[-1] = max(high, self._highs[-1])
            else:
                self._lows.append(low)
                self._highs.append(high)

    def spans(self) -> Iterator[tuple[float, float]]:
        """The ranges, in order and without overlaps."""
        return zip(self._lows, self._highs, strict=True)

    def __contains__(self, value: object) -> bool:
        if value in self._single:
            return True
        if not isinstance(value, int | float):
            return False
        at = bisect.bisect_right(self._lows, value) - 1
        return at >= 0 and value <= self._highs[at]


Container = frozenset[Scalar] | PrefixSet | NumberSet


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one kind: single ones, ranges of numbers, and prefixes of addresses."""

    kind: Kind
    single: frozenset[Scalar] = frozenset()
    ranges: tuple[tuple[float, float], ...] = ()
    networks: tuple[Network, ...] = ()

    def container(self) -> Container:
        """A container that answers `value in …` fast."""
        if self.kind is Kind.ADDRESS:
            alone = tuple(_host(value) for value in self.single if isinstance(value, bytes))
            return PrefixSet((*self.networks, *alone)) if self.networks else self.single
        return NumberSet(self.single, self.ranges) if self.ranges else self.single

    def is_disjoint(self, other: Values) -> bool:
        """Whether the sets have no common value. False if that is hard to determine."""
        if self.ranges or other.ranges or self.networks or other.networks:
            single, wide = (other, self) if self.ranges or self.networks else (self, other)
            if single.ranges or single.networks:
                return not _overlap(single, wide)
            container = wide.container()
            return not any(value in container for value in single.single)
        return not self.single & other.single

    def union(self, other: Values) -> Values:
        """The values of both sets."""
        return Values(self.kind, self.single | other.single, self.ranges + other.ranges, self.networks + other.networks)


def values_of(items: Iterable[Literal | Range], kind: Kind, choices: tuple[str, ...] = ()) -> Values:
    """The values between braces, which must be of this type. ExpressionError: the first that is not."""
    single: set[Scalar] = set()
    ranges: list[tuple[float, float]] = []
    networks: list[Network] = []
    for item in items:
        if isinstance(item, Range):
            _add_range(item, kind, ranges, networks)
        elif kind is Kind.ADDRESS and item.is_address and "/" in str(item.value):
            networks.append(network_of(str(item.value), item.at))
        else:
            single.add(constant(item, kind, choices))
    return Values(kind, frozenset(single), tuple(ranges), tuple(networks))


def constant(literal: Literal, kind: Kind, choices: tuple[str, ...] = ()) -> Scalar:
    """The value of a literal that must be of this type; for an address, its bytes."""
    value, at = literal.value, literal.at
    if kind is Kind.ADDRESS:
        if isinstance(value, str) and not literal.is_address and (parsed := _address_or_none(value)) is not None:
            raise ExpressionError(f"write an address without quotes: {parsed}", *at)
        if not literal.is_address:
            raise ExpressionError(f"expected an address (found {shown(literal)})", *at)
        if "/" in str(value):
            raise ExpressionError(f"write a prefix in a set: 'in {{{value}}}' (found {value})", *at)
        return address_of(str(value), at)
    if literal.is_address or kind is not kind_of(value):
        raise ExpressionError(f"expected {_a(kind)} (found {shown(literal)})", *at)
    if choices and value not in choices:
        raise ExpressionError(f"unknown value {shown(literal)}{suggest(str(value), choices)}", *at)
    return value


def kind_of(value: object) -> Kind:
    """The type of a plain value."""
    if isinstance(value, bool):
        return Kind.FLAG
    if isinstance(value, int | float):
        return Kind.NUMBER
    return Kind.ADDRESS if isinstance(value, bytes) else Kind.TEXT


def address_of(text: str, at: Spot) -> bytes:
    """The bytes of an address."""
    try:
        return ip_address(text).packed
    except ValueError:
        raise ExpressionError(f"not an address: {text}", *at) from None


def network_of(text: str, at: Spot) -> Network:
    """The prefix. ExpressionError: it is not one; if it has host bits, the message suggests the network."""
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise ExpressionError(f"not a prefix: {text}", *at) from None
    raise ExpressionError(f"{text} has host bits set; did you mean {meant}?", *at)


def shown(literal: Literal) -> str:
    """A literal as in the source text."""
    if literal.is_address:
        return f"the address {literal.value}"
    if isinstance(literal.value, bool):
        return str(literal.value).lower()
    return f'"{literal.value}"' if isinstance(literal.value, str) else f"the number {literal.value}"


def check_list(name: str, known: Mapping[str, Values], kind: Kind, at: Spot) -> Values:
    """Check that the list `$name` holds values of this type."""
    if name not in known:
        raise ExpressionError(f"unknown list '${name}'{suggest(name, known)}", *at)
    values = known[name]
    if values.kind is not kind:
        raise ExpressionError(f"expected a list of {kind} (found '${name}', of {values.kind})", *at)
    return values


def _add_range(item: Range, kind: Kind, ranges: list[tuple[float, float]], networks: list[Network]) -> None:
    if kind is Kind.ADDRESS:
        low, high = (ip_address(_bytes(end)) for end in (item.low, item.high))
        if low.version != high.version or int(low) > int(high):
            raise ExpressionError(f"a range goes from low to high, in one family (found {low}..{high})", *item.at)
        networks.extend(summarize_address_range(low, high))
        return
    if kind is not Kind.NUMBER:
        raise ExpressionError(f"only numbers and addresses have ranges, expected {_a(kind)}", *item.at)
    first, last = constant(item.low, kind), constant(item.high, kind)
    assert isinstance(first, int | float)
    assert isinstance(last, int | float)
    if first > last:
        raise ExpressionError(f"a range goes from low to high (found {first}..{last})", *item.at)
    ranges.append((first, last))


def _bytes(literal: Literal) -> bytes:
    value = constant(literal, Kind.ADDRESS)
    assert isinstance(value, bytes)
    return value


def _overlap(one: Values, other: Values) -> bool:
    numbers = any(a <= d and c <= b for a, b in one.ranges for c, d in other.ranges)
    mixed = any(v in other.container() for v in one.single) or any(v in one.container() for v in other.single)
    return (
        numbers or mixed or any(a.version == b.version and a.overlaps(b) for a in one.networks for b in other.networks)
    )


def _host(address: bytes) -> Network:
    return ip_network(address)


def _address_or_none(text: str) -> object:
    try:
        return ip_network(text, strict=False) if "/" in text else ip_address(text)
    except ValueError:
        return None


def _a(kind: Kind) -> str:
    return f"{'an' if kind is Kind.ADDRESS else 'a'} {kind}" if kind is not Kind.FLAG else str(kind)
