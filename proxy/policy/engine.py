"""All policies of one version: finds the rules that match a flow, and combines them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from proxy.policy.facts import checked_facts
from proxy.policy.language import Facts, Values
from proxy.policy.limits import Countable
from proxy.policy.model import Default
from proxy.policy.phases import PHASES, Phase
from proxy.policy.read import Policy
from proxy.policy.rule import Rule
from proxy.policy.table import Table
from proxy.verdict import ALLOW, Decision, HeaderChange, HttpEffects, Pace, Refusal, RuleIdentity, Ruling, Verdict

PACED_PROTOCOLS = ("tcp", "udp")  # protocols whose bytes can be limited
MAX_REMOVED = 10_000  # removed rules whose counters are kept in case they come back


@dataclass(frozen=True, slots=True)
class _PhaseRules:
    """The rules and the default of one phase for one tenant."""

    table: Table
    default: Ruling
    needs_response: bool  # conditions use the response: judge once it has arrived


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a phase: the matching rules in order, and the ruling; `decided_by` None: the default decided."""

    ruling: Ruling
    matching: list[Rule]
    decided_by: Rule | None


@dataclass(slots=True)
class Hits:
    """Counts the decisions of a default."""

    counts: dict[tuple[str | None, Phase], int] = field(default_factory=dict)


class Policies:
    """The compiled policies of one version. Immutable except for counters and limits."""

    def __init__(self, policies: Iterable[Policy], version: str, tenants: Iterable[str] = ()) -> None:
        self.version = version
        self.policies = tuple(policies)
        self.hits = Hits()
        self._removed: dict[RuleIdentity, Rule] = {}  # of earlier versions
        self._by_identity: dict[RuleIdentity, Rule] | None = None
        self._phases: dict[tuple[str | None, Phase], _PhaseRules] = {}
        for tenant in (None, *tenants):
            for phase in PHASES:
                if (phase_rules := self._rules_of_phase(tenant, phase)) is not None:
                    self._phases[tenant, phase] = phase_rules

    def has(self, tenant: str | None, phase: Phase) -> bool:
        """Whether any policy has rules or a default in this phase."""
        return (tenant, phase) in self._phases

    def rules(self) -> Iterable[Rule]:
        """All rules, in the order of the files."""
        return (rule for policy in self.policies for rule in policy.rules)

    def count(self, tenant: str, decisions: Iterable[Decision], now: float) -> None:
        """Count decisions made elsewhere by these rules, or by other rules of the same names. `now`: Unix s."""
        for decision in decisions:
            if decision.version is None:
                continue  # from a hook or the settings
            policy, name = decision.policy, decision.rule or ""
            rule = self._identified.get((tenant, policy, name)) or self._identified.get((None, policy, name))
            if rule is not None:
                rule.hits += 1
                rule.last_hit = now
            elif name == "default" and decision.stage in PHASES:
                key = tenant, decision.stage
                self.hits.counts[key] = self.hits.counts.get(key, 0) + 1

    def versions_of(self, tenant: str) -> list[str]:
        """Versions of the policies that decide about this tenant's flows."""
        return [policy.version for policy in self.policies if policy.tenant in (None, tenant)]

    def next_change(self, now: float) -> float:
        """When the schedule of an enabled rule begins or ends next, after `now`; Unix seconds. Infinity: never."""
        schedules = [rule.schedule for rule in self.rules() if rule.schedule is not None and rule.is_enabled]
        changes = (schedule.next_change(now) for schedule in schedules)
        return min((each for each in changes if each is not None), default=math.inf)

    def rules_for(self, tenant: str | None, phase: Phase) -> list[Rule]:
        """The enabled rules for this tenant's flows, in order."""
        phase_rules = self._phases.get((tenant, phase))
        return [] if phase_rules is None else phase_rules.table.rules

    def lists_for(self, tenant: str | None) -> dict[str, Values]:
        """The named lists that this tenant's rules may use."""
        found: dict[str, Values] = {}
        for policy in self.policies:
            if policy.tenant in (None, tenant):
                found |= policy.lists
        return found

    def inherit(self, earlier: Policies) -> None:
        """Take over counters and limits of earlier rules with the same tenant, policy and name, even if returning."""
        earlier_rules = earlier._removed | {rule.identity: rule for rule in earlier.rules()}
        self.hits = earlier.hits
        for rule in self.rules():
            predecessor = earlier_rules.get(rule.identity)
            if predecessor is not None:
                rule.hits, rule.last_hit = predecessor.hits, predecessor.last_hit
                if rule.limiter is not None and predecessor.limiter is not None:
                    rule.limiter.inherit(predecessor.limiter)
        current = {rule.identity for rule in self.rules()}
        removed = {identity: rule for identity, rule in earlier_rules.items() if identity not in current}
        self._removed = removed if len(removed) <= MAX_REMOVED else {}

    def judge(self, tenant: str | None, phase: Phase, facts: Mapping[str, Any]) -> Ruling | None:
        """The ruling of this phase on these facts (by field name); None: no policy covers it."""
        phase_rules = self._phases.get((tenant, phase))
        if phase_rules is None:
            return None
        checked = facts if isinstance(facts, Facts) else checked_facts(phase, facts)
        ruling = self.rule(tenant, phase, checked, is_repeat=True)  # `exceeded` applies its limits, once
        if ruling is None or not phase_rules.needs_response or ruling.verdict.is_denial:
            return ruling
        if checked["http.response.code"] is None:
            effects = msgspec.structs.replace(ruling.verdict.http or HttpEffects(), judge_response=True)
            verdict = msgspec.structs.replace(ruling.verdict, http=effects)
            return Ruling(verdict, ruling.decisions, ruling.limits)
        return ruling

    def exceeded(self, limits: Iterable[RuleIdentity], facts: Facts) -> Ruling | None:
        """The denial if one of these limits, named by `judge`, is exceeded; None: it was counted."""
        for identity in limits:
            rule = self._identified.get(identity)
            if rule is not None and rule.limiter is not None:
                denial = _limit_denial(rule, facts, None, is_repeat=False)
                if denial is not None:
                    return denial
        return None

    @property
    def _identified(self) -> dict[RuleIdentity, Rule]:
        if self._by_identity is None:
            self._by_identity = {rule.identity: rule for rule in self.rules()}
        return self._by_identity

    def rule(
        self, tenant: str | None, phase: Phase, facts: Facts, flow: Countable | None = None, *, is_repeat: bool = False
    ) -> Ruling | None:
        """As `judge`, for a flow that limits count; `is_repeat`: it was allowed before, and limits are not applied.

        In the phase `http`, `Ruling.limits` names the limits to pass to `exceeded`.
        """
        phase_rules = self._phases.get((tenant, phase))
        if phase_rules is None:
            return None
        matched: list[Rule] = []
        for rule in phase_rules.table.matching(facts):
            rule.hits += 1
            rule.last_hit = facts["time.unix"]
            if rule.is_final and not matched:
                return rule.ruling
            if rule.limiter is not None:
                denial = _limit_denial(rule, facts, flow, is_repeat=is_repeat)
                if denial is not None:
                    return _combine(matched, denial)
            matched.append(rule)
        if matched and matched[-1].is_final:
            return _with_limits(_combine(matched, matched[-1].ruling), matched, facts)
        counts = self.hits.counts
        counts[tenant, phase] = counts.get((tenant, phase), 0) + 1
        return _with_limits(_combine(matched, phase_rules.default), matched, facts) if matched else phase_rules.default

    def try_out(self, tenant: str | None, phase: Phase, facts: Facts) -> Outcome | None:
        """As `judge`, for a hypothetical flow: nothing is counted, and limits are not applied."""
        phase_rules = self._phases.get((tenant, phase))
        if phase_rules is None:
            return None
        matching = phase_rules.table.matching(facts)
        if matching and matching[-1].is_final:
            return Outcome(_combine(matching, matching[-1].ruling), matching, matching[-1])
        return Outcome(_combine(matching, phase_rules.default), matching, None)

    def _rules_of_phase(self, tenant: str | None, phase: Phase) -> _PhaseRules | None:
        policies = [policy for policy in self.policies if policy.tenant is None]
        policies += [policy for policy in self.policies if tenant is not None and policy.tenant == tenant]
        rules = [rule for policy in policies for rule in policy.rules if rule.phase == phase]
        rules.sort(key=lambda rule: (rule.tenant is not None, rule.precedence))  # across files; then in their order
        with_default = [policy for policy in policies if phase in policy.defaults]
        if not rules and not with_default:
            return None
        # two files that differ: the stricter one wins
        denier = next((policy for policy in with_default if policy.defaults[phase] == "deny"), None)
        source = denier or (with_default[-1] if with_default else policies[-1])
        default = _default(source, phase, "deny" if denier else "allow")
        return _PhaseRules(Table(rules), default, any(rule.needs_response for rule in rules))


def _default(policy: Policy, phase: Phase, default: Default) -> Ruling:
    reason = "no rule decided" if phase in policy.defaults else "no rule decided, and no default is stated"
    decision = Decision(
        stage=phase, policy=policy.name, rule="default", version=policy.version, reason=reason,
        action="block" if default == "deny" else "allow",
    )  # fmt: skip
    if default == "allow":
        return Ruling(ALLOW, [decision])
    denial = f"no rule of policy {policy.name} allows it"
    return Ruling(Verdict(action="deny", reason=denial, refusal="reset"), [decision])


def _limit_denial(rule: Rule, facts: Facts, flow: Countable | None, *, is_repeat: bool) -> Ruling | None:
    """The denial of a flow that exceeds the rule's limit."""
    limiter = rule.limiter
    assert limiter is not None
    key = facts[limiter.field] if limiter.field is not None else None
    if is_repeat:
        if flow is not None:
            limiter.count(key, flow)
        return None
    why = limiter.refusal(key, flow, facts["time.unix"] or 0.0)
    if why is None:
        return None
    # over the rate: no answer, so the client's next SYN may pass; at the maximum: refuse, it must wait for others
    is_rate = why.endswith("second")
    status = HttpEffects(status=429) if rule.phase == "http" else None  # Too Many Requests (RFC 6585 4)
    refusal: Refusal = "drop" if is_rate else "reset"
    verdict = Verdict(action="deny", reason=f"rule {rule.name}: {why}", refusal=refusal, http=status)
    decision = msgspec.structs.replace(rule.decision, action="rate-limit", reason=why)
    return Ruling(verdict, [decision])


def _with_limits(ruling: Ruling, matched: list[Rule], facts: Facts) -> Ruling:
    """The ruling with its limits: of bytes, to be enforced elsewhere, and of requests, to be counted elsewhere."""
    limited = [(rule, rule.limiter) for rule in matched if rule.limiter is not None]
    if not limited or ruling.verdict.is_denial:
        return ruling
    if limited[0][0].phase == "http":
        return Ruling(ruling.verdict, ruling.decisions, tuple(rule.identity for rule, _ in limited))
    if facts["net.protocol"] not in PACED_PROTOCOLS:
        return ruling
    paces = []
    for rule, limiter in limited:
        if limiter.bytes_per_s:
            key = facts[limiter.field] if limiter.field is not None else None
            key_text = key.hex() if isinstance(key, bytes) else key
            pool = "/".join(str(part or "") for part in (facts["tenant"], rule.policy, rule.name, key_text))
            paces.append(Pace(limiter.bytes_per_s, pool))
    if not paces:
        return ruling
    return Ruling(msgspec.structs.replace(ruling.verdict, paces=tuple(paces)), ruling.decisions)


def _combine(matched: list[Rule], last: Ruling) -> Ruling:
    """Combine the matching rules into a ruling: on each subject, the first rule that sets it wins."""
    decisions = [rule.decision for rule in matched]
    decisions += [each for each in last.decisions if each not in decisions]
    if last.verdict.is_denial:
        return Ruling(last.verdict, decisions)
    level = offramp = ttl_s = None
    effects = [rule.verdict.http for rule in matched] + [last.verdict.http]
    for rule in matched:
        verdict = rule.verdict
        level = level or verdict.level
        offramp = offramp or verdict.offramp
        if verdict.ttl_s is not None:
            ttl_s = verdict.ttl_s if ttl_s is None else min(ttl_s, verdict.ttl_s)
    final = last.verdict
    if final.ttl_s is not None:
        ttl_s = final.ttl_s if ttl_s is None else min(ttl_s, final.ttl_s)
    verdict = Verdict(
        reason=final.reason, level=final.level or level, offramp=final.offramp or offramp, origin=final.origin,
        ttl_s=ttl_s, http=_effects([each for each in effects if each is not None]),
    )  # fmt: skip
    return Ruling(_simplify(verdict), decisions)


def _simplify(verdict: Verdict) -> Verdict:
    """Return `ALLOW` itself if the ruling adds nothing: flows that are only allowed are not delayed."""
    return ALLOW if verdict == ALLOW else verdict


def _effects(effects: list[HttpEffects]) -> HttpEffects | None:
    """The combined effects of several rules on one request: of changes of one header, the first wins."""
    if len(effects) < 2:
        return effects[0] if effects else None
    return HttpEffects(
        status=next((each.status for each in effects if each.status is not None), None),
        location=next((each.location for each in effects if each.location is not None), None),
        reads=tuple({side: None for each in effects for side in each.reads}),
        request_headers=_first_per_header([change for each in effects for change in each.request_headers]),
        response_headers=_first_per_header([change for each in effects for change in each.response_headers]),
    )


def _first_per_header(changes: list[HeaderChange]) -> tuple[HeaderChange, ...]:
    by_name: dict[str, HeaderChange] = {}
    for change in changes:
        by_name.setdefault(change.name.lower(), change)
    return tuple(by_name.values())


def join(network: Ruling | None, egress: Ruling | None) -> Ruling | None:
    """Combine the rulings of two phases on one flow: either may deny, and the later one decides on the route."""
    if network is None or egress is None:
        return network or egress
    decisions = [*network.decisions, *egress.decisions]
    if network.verdict.is_denial or egress.verdict.is_denial:
        denier = network if network.verdict.is_denial else egress
        return Ruling(denier.verdict, decisions)
    early, late = network.verdict, egress.verdict
    times = [each for each in (early.ttl_s, late.ttl_s) if each is not None]
    verdict = Verdict(
        reason=late.reason or early.reason, level=late.level or early.level, offramp=late.offramp or early.offramp,
        origin=late.origin or early.origin, ttl_s=min(times) if times else None, paces=early.paces,
    )  # fmt: skip
    return Ruling(_simplify(verdict), decisions)
