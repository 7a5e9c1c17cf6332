"""Policies as text: rules with their hits, differences, and how a flow is decided and why."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from oxyctl.policies.diff import Difference
from oxyctl.policies.files import PolicyTestResult
from oxyctl.policies.replay import Replay
from oxyctl.render.tables import Column, Table
from oxyctl.render.units import count_text
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
    for difference in differences:
        print(f"{_SIGNS[difference.change]} {difference.rule}: {'; '.join(difference.what)}")


def print_test_results(results: Iterable[PolicyTestResult]) -> None:
    """Print one line for each test."""
    for result in results:
        print(f"{'FAIL' if result.problem else 'ok  '}  {result.policy}: {result.name}: expected {result.expected}")
        if result.problem:
            print(f"      {result.problem}")


def print_replay(replay: Replay) -> None:
    """Print what would change, the most frequent first."""
    changed = sum(change.flows for change in replay.changes)
    print(f"{count_text(replay.flows, 'recorded flow')}: {replay.same} decided as before, {changed} differently"
          + (f", {replay.unjudged} not covered by the policy" if replay.unjudged else ""))  # fmt: skip
    for change in replay.changes:
        by = f"rule {change.rule}" if change.rule != "default" else "the default"
        was = f"{change.was} (by {change.before or 'no policy'})"
        print(f"  {count_text(change.flows, 'flow')}: {was} -> {change.now} by {by}")
        for example in change.examples:
            print(f"    {example}")
    if replay.without_groups:
        flows = count_text(replay.without_groups, "flow")
        print(f"Groups and posture are unknown for {flows}: the user has no open tunnel.")


def explanation_lines(explanation: Explanation) -> Iterator[str]:
    """The explanation, line by line."""
    tenant = f"tenant {explanation.tenant}" if explanation.tenant else "no tenant"
    by = "by default: no rule matched" if explanation.rule == "default" else f"by rule {explanation.rule}"
    policy = f"policy {explanation.policy}, version {explanation.version}, phase {explanation.phase}"
    yield f"{explanation.action.upper()} {by} ({policy}, {tenant})"
    if explanation.reason and explanation.rule != "default":
        yield f"  reason: {explanation.reason}"
    for decision in explanation.decisions[:-1]:
        if not decision.enforced:
            yield f"  before that, rule {decision.rule} matched: would {decision.action}, but is audit-only"
        else:
            yield f"  before that, rule {decision.rule} matched: {decision.action}"
    verdict = explanation.verdict
    effects = [
        verdict.is_denial and f"the client receives: {verdict.refusal or 'unreachable'}",
        verdict.origin and f"redirected to {verdict.origin[0]} port {verdict.origin[1]}",
        verdict.level and f"lifted to level {verdict.level}",
        verdict.offramp and f"off-ramp: {verdict.offramp}",
        verdict.ttl_s and f"decided again after {verdict.ttl_s:g} s",
    ]
    yield from (f"  {effect}" for effect in effects if effect)
    if explanation.close:
        yield "Rules that nearly matched:"
        yield from (_near(decision) for decision in explanation.close)
    if explanation.missing:
        yield f"Rules also use fields that were not given for this flow: {', '.join(explanation.missing)}"


def _near(rule: Near) -> str:
    return f"  {rule.rule} ({rule.action}): does not match: {'; '.join(rule.failed)}"
