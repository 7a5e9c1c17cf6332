"""Two versions of a policy: which rules were added, removed, changed or moved."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Literal

import msgspec

from proxy.policy.answers import PolicyInfo, RuleInfo

COMPARED = ("phase", "action", "precedence", "enabled", "when")


class Difference(msgspec.Struct, kw_only=True, frozen=True):
    """One rule that differs."""

    change: Literal["added", "removed", "changed", "moved", "default"]
    rule: str
    what: list[str]  # for a changed rule: `action: allow -> block`


def compare(old: PolicyInfo, new: PolicyInfo) -> list[Difference]:
    """The differences by rule name: in the order of the new policy, then removed rules."""
    before = {rule.name: rule for rule in old.rules}
    after = {rule.name: rule for rule in new.rules}
    differences = []
    if old.defaults != new.defaults:
        differences.append(Difference(change="default", rule="default", what=[f"{old.defaults} -> {new.defaults}"]))
    moved = _moved([name for name in before if name in after], [name for name in after if name in before])
    for name, rule in after.items():
        if name not in before:
            differences.append(Difference(change="added", rule=name, what=[_summary(rule)]))
        elif what := _changes(before[name], rule):
            differences.append(Difference(change="changed", rule=name, what=what))
        elif name in moved:
            differences.append(Difference(change="moved", rule=name, what=["evaluated in a different order"]))
    removed = [rule for name, rule in before.items() if name not in after]
    return differences + [Difference(change="removed", rule=rule.name, what=[_summary(rule)]) for rule in removed]


def _changes(old: RuleInfo, new: RuleInfo) -> list[str]:
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in COMPARED]
    return [f"{name}: {_text(before)} -> {_text(after)}" for name, before, after in pairs if before != after]


def _text(value: object) -> str:
    return " and ".join(value) or "everything" if isinstance(value, list) else str(value)


def _summary(rule: RuleInfo) -> str:
    return f"{rule.action}: {_text(rule.when)}"


def _moved(old: Sequence[str], new: Sequence[str]) -> set[str]:
    """The smallest set of names whose moves turn one order into the other."""
    position = {name: index for index, name in enumerate(old)}
    ends: list[int] = []  # by length of increasing subsequences, the smallest last place
    lengths = []
    for name in new:
        at = bisect.bisect_left(ends, position[name])
        ends[at : at + 1] = [position[name]]
        lengths.append(at)
    kept, wanted = set(), len(ends) - 1
    for name, length in zip(reversed(new), reversed(lengths), strict=True):
        if length == wanted:
            kept.add(name)
            wanted -= 1
    return {name for name in new if name not in kept}
