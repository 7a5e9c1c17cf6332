"""The rules of one phase in their order, and an index that skips rules which an indexed field rules out.

Each field that several rules require something of has an index from its values to bit sets of rules; their
intersection is what is left to evaluate (the bit vector scheme of Lakshman and Stiliadis, SIGCOMM 1998). What a rule
requires of such fields is then known to hold, so that a rule of nothing else is not evaluated at all.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from proxy.policy.language import Facts, Kind, Requirement, conjunction
from proxy.policy.language.prefixes import PrefixTree
from proxy.policy.language.sets import NumberSet
from proxy.policy.rule import Rule

MIN_RULES = 2  # minimum number of rules with a requirement for a field to be worth a look-up
MAX_CACHED = 16_384  # cached values of a field

Test = Callable[[Facts], bool]


class FieldIndex:
    """Bit sets of rules, by the values of one field."""

    __slots__ = ("_any", "_exact", "_is_array", "_lows", "_segments", "_shared", "_tree", "cache", "others")

    def __init__(self, requirements: Sequence[tuple[int, Requirement]], everything: int) -> None:
        """`requirements`: by the number of the rule."""
        field = requirements[0][1].field
        self._is_array = field.is_array
        self.cache: dict[Any, int] = {}  # results of `find`: one look-up for recurring values
        self._exact: dict[Any, int] = {}
        self._shared: dict[int, int] = {}  # one object for equal bit sets
        self._any = 0  # rules that require any value
        self._tree = PrefixTree() if field.kind is Kind.ADDRESS else None
        self.others = everything  # rules without a requirement of the field
        ranges: list[tuple[float, float, int]] = []
        for number, required in requirements:
            bit = 1 << number
            self.others &= ~bit
            values = required.values
            if values is None:
                self._any |= bit
                continue
            for value in values.single:
                self._exact[value] = self._exact.get(value, 0) | bit
            for network in values.networks:
                assert self._tree is not None
                self._tree.add(network.network_address.packed, network.prefixlen, bit)
            ranges += [(low, high, bit) for low, high in NumberSet(frozenset(), values.ranges).spans()]
        if self._tree is not None and not self._tree.count:
            self._tree = None
        self._lows, self._segments = _segments(ranges)

    def find(self, value: Any) -> int:
        """The rules that a flow with this value may still match; the result is cached in `cache`."""
        if len(self.cache) >= MAX_CACHED:
            self.cache.clear()
            self._shared.clear()
        bits = self._find(value)
        bits = self.cache[value] = self._shared.setdefault(bits, bits)
        return bits

    def _find(self, value: Any) -> int:
        if value is None:
            return self.others
        if self._is_array:
            bits = self.others | self._any if value else self.others
            for element in value:
                bits |= self._bits(element)
            return bits
        return self._bits(value) | self.others | self._any

    def _bits(self, value: Any) -> int:
        bits = self._exact.get(value, 0)
        if self._tree is not None:
            return bits | self._tree.find(value)
        if self._lows:
            at = bisect.bisect_right(self._lows, value) - 1
            if at >= 0:
                bits |= self._segments[at]
        return bits


class Table:
    """The enabled rules of one phase for one tenant: global ones first, each group by ascending precedence."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = [rule for rule in rules if rule.is_enabled]
        everything = (1 << len(self.rules)) - 1
        requirements: dict[str, list[tuple[int, Requirement]]] = {}
        counts = Counter(name for rule in self.rules for name in {r.field.name for r in _required(rule)})
        self._residuals: list[Test | None] = []
        for number, rule in enumerate(self.rules):
            residual: list[Test] = []
            indexed: set[str] = set()
            for step in rule.steps:
                name = step.requires.field.name if step.requires is not None else ""
                if step.requires is None or counts[name] < MIN_RULES or name in indexed:
                    residual.append(step.test)
                else:
                    requirements.setdefault(name, []).append((number, step.requires))
                    indexed.add(name)
                    if step.requires.values is None:
                        residual.append(step.test)
            if rule.schedule is not None:
                residual.append(rule.is_scheduled)
            self._residuals.append(conjunction(residual) if residual else None)
        # fields that leave the fewest rules come first
        indexes = [(name, FieldIndex(required, everything)) for name, required in requirements.items()]
        indexes.sort(key=lambda each: each[1].others.bit_count())
        self._indexes = [(name, index.cache.get, index.find) for name, index in indexes]
        self._everything = everything

    def matching(self, facts: Facts) -> list[Rule]:
        """The matching rules, in order, up to the first that decides."""
        bits = self._everything
        for name, cache, find in self._indexes:
            value = facts[name]
            found = cache(value)
            bits &= find(value) if found is None else found
            if not bits:
                return []
        matching: list[Rule] = []
        rules, residuals = self.rules, self._residuals
        while bits:
            lowest = bits & -bits
            number = lowest.bit_length() - 1
            residual = residuals[number]
            if residual is None or residual(facts):
                rule = rules[number]
                matching.append(rule)
                if rule.is_final:
                    break
            bits ^= lowest
        return matching


def _required(rule: Rule) -> Iterator[Requirement]:
    return (step.requires for step in rule.steps if step.requires is not None)


def _segments(ranges: list[tuple[float, float, int]]) -> tuple[list[float], list[int]]:
    """Overlapping ranges of numbers as disjoint pieces: the start and the bits of each."""
    starts: dict[float, int] = {}
    ends: dict[float, int] = {}
    for low, high, bit in ranges:
        successor = _successor(high)
        starts[low] = starts.get(low, 0) | bit
        ends[successor] = ends.get(successor, 0) | bit
    edges = sorted({*starts, *ends})
    segments, bits = [], 0
    for edge in edges:
        bits = bits & ~ends.get(edge, 0) | starts.get(edge, 0)
        segments.append(bits)
    return edges, segments


def _successor(number: float) -> float:
    """The next number that can be a value: times have fractions; of large integers, the next one."""
    return number + 1 if isinstance(number, int) and abs(number) >= 1 << 53 else math.nextafter(number, math.inf)
