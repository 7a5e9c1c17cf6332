"""Policies in another process: the copy for an inspector, which judges requests and channels by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

import msgspec

from proxy.flow.flow import Flow
from proxy.policy.engine import Policies
from proxy.policy.facts import FlowFacts, ImaginedFacts
from proxy.policy.fields import FIELDS
from proxy.policy.language import Facts, Kind
from proxy.policy.load import compile_policies
from proxy.policy.phases import Phase
from proxy.settings import DocumentError
from proxy.verdict import Ruling

FactsCache = dict[Phase, Facts]
_ADDRESSES = frozenset(field.name for phase in FIELDS.values() for field in phase if field.kind is Kind.ADDRESS)
READ_PHASES: tuple[Phase, ...] = ("tls", "ssh", "http")  # judged where sessions are inspected


class CarriedFile(msgspec.Struct, frozen=True):
    """One policy as text, with its lists."""

    path: str
    tenant: str | None
    source: str
    lists: dict[str, str] = {}

    def text(self) -> str:
        """Its YAML."""
        return self.source

    def beside(self, name: str) -> str:
        """The text of a list. DocumentError: it is not among those sent."""
        if name not in self.lists:
            raise DocumentError("is not among the lists of these policies", name)
        return self.lists[name]


class CarriedPolicies(msgspec.Struct, frozen=True):
    """All policies with rules about inspected sessions."""

    files: list[CarriedFile]
    tenants: list[str]

    def get(self) -> list[CarriedFile]:
        """The files, in the form of `proxy.policy.source.Source`."""
        return self.files


def carry(policies: Policies, tenants: Iterable[str]) -> CarriedPolicies | None:
    """The policies for an inspector; None: none covers inspected sessions. If one does, all files are included, for
    their lists."""
    names = [*tenants]
    if not any(policies.has(tenant, phase) for tenant in names for phase in READ_PHASES):
        return None
    files = [
        CarriedFile(policy.document.file, policy.tenant, policy.document.source, policy.list_files)
        for policy in policies.policies
    ]
    return CarriedPolicies(files, names)


def flow_facts(flow: Flow, now: float) -> dict[str, Any]:
    """The facts of a flow as plain data, for rules about its session.

    `now`: Unix seconds.
    """
    facts = FlowFacts(flow, now).all("network")
    for field in FIELDS["network"]:
        if field.kind is Kind.ADDRESS and (value := facts.get(field.name)) is not None:
            facts[field.name] = str(ip_address(value))
    del facts["time.unix"]
    return facts


class SessionJudge:
    """Judges inspected sessions, inside an inspector."""

    def __init__(self, carried: CarriedPolicies) -> None:
        self._policies = compile_policies(carried, carried.tenants, 0.0, is_tested=False)

    def judge(
        self, tenant: str, phase: Phase, flow: Mapping[str, Any], facts: Mapping[str, Any], now: float,
        cache: FactsCache | None = None,
    ) -> Ruling | None:  # fmt: skip
        """The ruling on these facts, and those of the flow; None: no policy covers them. `now`: Unix seconds.

        `cache` keeps the decoded facts of the flow for later calls.
        """
        if not self._policies.has(tenant, phase):
            return None
        base = None if cache is None else cache.get(phase)
        if base is None:
            base = _CarriedFacts(flow)
            if cache is not None:
                cache[phase] = base
        return self._policies.judge(tenant, phase, _SessionFacts(base, facts, now))


class _CarriedFacts(Facts):
    """The facts from `flow_facts`, converted for rules on first use: most rules use two or three of twenty."""

    __slots__ = ("_flow",)

    def __init__(self, flow: Mapping[str, Any]) -> None:
        super().__init__()
        self._flow = flow

    def __missing__(self, key: str) -> Any:
        value = self._flow.get(key)
        if key in _ADDRESSES and value is not None:
            value = ip_address(value).packed
        elif isinstance(value, list):
            value = tuple(value)
        self[key] = value
        return value


class _SessionFacts(ImaginedFacts):
    """Facts of a session, looked up when a rule uses them: `facts` may compute them only then."""

    __slots__ = ("_facts", "_flow")

    def __init__(self, flow: Facts, facts: Mapping[str, Any], now: float) -> None:
        super().__init__()
        self["time.unix"] = now
        self._flow, self._facts = flow, facts

    def __missing__(self, key: str) -> Any:
        value = self._flow[key]
        if value is None:
            try:
                value = self._facts[key]
            except KeyError:
                value = super().__missing__(key)
        self[key] = value
        return value
