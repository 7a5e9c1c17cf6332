"""A compiled rule: its condition, its action, and its counters."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.policy.language import Facts, Matcher, Step, conjunction
from proxy.policy.limits import Limiter
from proxy.policy.model import DECIDING, Action
from proxy.policy.phases import Phase
from proxy.policy.schedule import Schedule
from proxy.verdict import Decision, RuleIdentity, Ruling, Verdict


@dataclass(slots=True)
class Rule:
    """One rule of one version of a policy."""

    name: str
    policy: str
    tenant: str | None  # None: all
    phase: Phase
    precedence: int
    action: Action
    verdict: Verdict
    decision: Decision
    steps: list[Step]
    file: str
    line: int | None
    is_enabled: bool = True
    schedule: Schedule | None = None
    limiter: Limiter | None = None
    needs_response: bool = False  # one of its conditions uses the response
    hits: int = 0
    last_hit: float | None = None  # Unix seconds
    ruling: Ruling = field(init=False)  # if no rule before it has added anything
    is_final: bool = field(init=False)  # ends the phase if it matches

    test: Matcher = field(init=False)

    def __post_init__(self) -> None:
        self.test = conjunction([step.test for step in self.steps])
        self.ruling = Ruling(self.verdict, [self.decision])
        self.is_final = self.action in DECIDING

    @property
    def identity(self) -> RuleIdentity:
        """The key by which the rule is recognised in the next version."""
        return self.tenant, self.policy, self.name

    def matches(self, facts: Facts) -> bool:
        """Whether all its conditions hold: the slow equivalent of the table's index."""
        return self.is_enabled and self.test(facts) and (self.schedule is None or self.is_scheduled(facts))

    def is_scheduled(self, facts: Facts) -> bool:
        """Whether its schedule holds now."""
        return self.schedule is None or self.schedule.holds(facts["time.unix"] or 0.0)
