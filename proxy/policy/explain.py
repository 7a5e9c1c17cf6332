"""Explains policies: how often each rule decided, which rule would decide a flow and why, and which came close."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.policy.answers import Explanation, Near, PolicyInfo, Question, RuleInfo
from proxy.policy.engine import Outcome, Policies
from proxy.policy.facts import imagine
from proxy.policy.language import Facts
from proxy.policy.load import action_of
from proxy.policy.read import Policy
from proxy.policy.rule import Rule

MAX_CLOSE = 3  # rules that came close, in an explanation


def describe(policies: Policies, loaded_at: float, *, text: bool = False) -> list[PolicyInfo]:
    """Describe all policies of a version, with their rules."""
    return [_info(policy, loaded_at, text) for policy in policies.policies]


def explain(policies: Policies, question: Question, now: float) -> Explanation | None:
    """How the flow would be decided; None: no policy covers it. ValueError: the description of the flow is invalid."""
    tenant, phase = question.flow.tenant, question.phase
    facts = imagine(question.flow, phase, now)
    outcome = policies.try_out(tenant, phase, facts)
    if outcome is None:
        return None
    rules = policies.rules_for(tenant, phase)
    last = outcome.ruling.decisions[-1]
    return Explanation(
        phase=phase, tenant=tenant, action=action_of(outcome), policy=last.policy, rule=last.rule or "default",
        version=last.version, reason=last.reason, verdict=outcome.ruling.verdict,
        decisions=outcome.ruling.decisions, close=close_rules(rules, outcome, facts), missing=_missing(rules, facts),
    )  # fmt: skip


def close_rules(rules: Iterable[Rule], outcome: Outcome, facts: Facts) -> list[Near]:
    """The rules that fail by the fewest conditions, of those before the deciding one."""
    found: list[Near] = []
    for rule in rules:
        if rule is outcome.decided_by:
            break
        if rule in outcome.matching:
            continue
        failed = [step.text for step in rule.steps if not step.test(facts)]
        holding = len(rule.steps) - len(failed)
        if not rule.is_scheduled(facts):
            failed.append("its schedule")
        if holding or len(rule.steps) == 1:
            found.append(Near(rule=rule.name, policy=rule.policy, action=rule.action, failed=failed, held=holding))
    return sorted(found, key=lambda each: (len(each.failed), -each.held))[:MAX_CLOSE]


def _missing(rules: Iterable[Rule], facts: Facts) -> list[str]:
    used = {step.requires.field.name for rule in rules for step in rule.steps if step.requires is not None}
    return sorted(name for name in used if facts[name] in (None, ()))


def rule_info(rule: Rule) -> RuleInfo:
    """Describe one rule."""
    return RuleInfo(
        name=rule.name, policy=rule.policy, tenant=rule.tenant, phase=rule.phase, precedence=rule.precedence,
        action=rule.action, when=[step.text for step in rule.steps], enabled=rule.is_enabled, hits=rule.hits,
        last_hit=rule.last_hit, line=rule.line,
    )  # fmt: skip


def _info(policy: Policy, loaded_at: float, text: bool) -> PolicyInfo:
    return PolicyInfo(
        name=policy.name, tenant=policy.tenant, version=policy.version, file=policy.document.file,
        loaded_at=loaded_at, defaults={**policy.defaults}, rules=[rule_info(rule) for rule in policy.rules],
        text=policy.document.source if text else None,
    )  # fmt: skip
