"""Policies as text: rules with their hits, differences, and how a flow is decided and why."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from oxyctl.policies.diff import Difference
from oxyctl.policies.files import PolicyTestResult
from oxyctl.policies.past import Replay
from oxyctl.render.tables import Column, Table
from proxy.policy.answers import Explanation, Near, RuleInfo

_HITS = [
    Column("RULE"), Column("POLICY"), Column("TENANT", rank=1), Column("PHASE", rank=2), Column("ACTION"),
    Column("HITS", right=True), Column("LAST", right=True, rank=3), Column("WHEN", rank=4),
]  # fmt: skip
_SIGNS = {"added": "+", "removed": "-", "changed": "~", "moved": "^", "default": "~"}


def print_hits(rules: Sequence[RuleInfo]) -> None:
    """Print each rule with its number of matches."""
    now = time.time()
    Table(_HITS).write(
        [
            [
                rule.name, rule.policy, rule.tenant or "all", rule.phase, rule.action,
                str(rule.hits) if rule.enabled else "disabled",
                "never" if rule.last_hit is None else f"{max(0, now - rule.last_hit):.0f} s ago",
                " and ".join(rule.when) or "everything",
            ]
            for rule in rules
        ]
    )  # fmt: skip


def print_differences(differences: Iterable[Difference]) -> None:
    """Print one line for each rule, marked as by diff(1)."""
    for each in differences:
        print(f"{_SIGNS[each.change]} {each.rule}: {'; '.join(each.what)}")


def print_tried(tried: Iterable[PolicyTestResult]) -> None:
    """Print one line for each test."""
    for each in tried:
        print(f"{'FAIL' if each.problem else 'ok  '}  {each.policy}: {each.name}: expected {each.expected}")
        if each.problem:
            print(f"      {each.problem}")


def print_replay(found: Replay) -> None:
    """Print what would change, the most frequent first."""
    changed = sum(change.flows for change in found.changes)
    print(f"{found.flows} recorded flows: {found.same} decided as before, {changed} differently"
          + (f", {found.unjudged} not covered by the policy" if found.unjudged else ""))  # fmt: skip
    for change in found.changes:
        by = f"rule {change.rule}" if change.rule != "default" else "the default"
        print(f"  {change.flows} flows: {change.was} (by {change.before or 'no policy'}) -> {change.now} by {by}")
        for example in change.examples:
            print(f"    {example}")
    if found.without_groups:
        print(f"Groups and posture of {found.without_groups} flows are unknown: their users have no open tunnel.")


def story(found: Explanation) -> Iterator[str]:
    """The explanation, line by line."""
    whose = f"tenant {found.tenant}" if found.tenant else "no tenant"
    by = "by default: no rule matched" if found.rule == "default" else f"by rule {found.rule}"
    yield f"{found.action.upper()} {by} (policy {found.policy}, version {found.version}, phase {found.phase}, {whose})"
    if found.reason and found.rule != "default":
        yield f"  reason: {found.reason}"
    for each in found.decisions[:-1]:
        if not each.enforced:
            yield f"  before that, rule {each.rule} matched: would {each.action}, but is audit-only"
        else:
            yield f"  before that, rule {each.rule} matched: {each.action}"
    verdict = found.verdict
    effects = [
        verdict.is_denial and f"the client receives: {verdict.refusal or 'unreachable'}",
        verdict.origin and f"redirected to {verdict.origin[0]} port {verdict.origin[1]}",
        verdict.level and f"lifted to level {verdict.level}",
        verdict.offramp and f"off-ramp: {verdict.offramp}",
        verdict.ttl_s and f"decided again after {verdict.ttl_s:g} s",
    ]
    yield from (f"  {effect}" for effect in effects if effect)
    if found.close:
        yield "Rules that nearly matched:"
        yield from (_near(each) for each in found.close)
    if found.missing:
        yield f"Rules also use fields that were not given for this flow: {', '.join(found.missing)}"


def _near(each: Near) -> str:
    return f"  {each.rule} ({each.action}): does not match: {'; '.join(each.failed)}"
