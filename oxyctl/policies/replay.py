"""Replays recorded flows against a policy that is not in force: which of them would be decided differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from proxy.control.schema import FlowRecord, TunnelInfo
from proxy.policy.engine import Policies
from proxy.policy.facts import ImaginedFacts, imagine
from proxy.policy.load import action_of, decided_by
from proxy.policy.model import FlowText

EXAMPLES = 3  # flows that are named for each change


class Change(msgspec.Struct, kw_only=True):
    """Flows that would be decided differently in the same way."""

    was: str
    now: str
    rule: str  # the rule that would decide
    before: str | None  # the rule that decided
    flows: int = 0
    examples: list[str] = []


class Replay(msgspec.Struct, kw_only=True):
    """The differences that a policy would make."""

    flows: int
    same: int
    unjudged: int  # failed for other reasons, or no rule of the policy applies
    changes: list[Change]
    without_groups: int  # flows of users without an open tunnel, whose groups are unknown


def replay(policies: Policies, records: Iterable[FlowRecord], tunnels: Iterable[TunnelInfo]) -> Replay:
    """Decide each recorded flow again. Groups and posture are not recorded, but taken from users' open tunnels."""
    known = {(tunnel.tenant, key): tunnel for tunnel in tunnels for key in (tunnel.id, tunnel.user) if key}
    changes: dict[tuple[str, str, str, str | None], Change] = {}
    counts: Counter[str] = Counter()
    for record in records:
        counts["flows"] += 1
        tunnel = known.get((record.tenant, record.tunnel)) or known.get((record.tenant, record.user or ""))
        if tunnel is None and record.user is not None:
            counts["without_groups"] += 1
        outcome = policies.try_out(record.tenant, "network", facts_of(record, tunnel))
        if outcome is None or record.verdict == "error":
            counts["unjudged"] += 1
            continue
        was, before = _recorded_decision(record)
        is_denied = outcome.ruling.verdict.is_denial
        now = "block" if is_denied else "allow"
        if was == now:
            counts["same"] += 1
            continue
        key = (was, action_of(outcome), decided_by(outcome), before)
        change = changes.setdefault(key, Change(was=was, now=key[1], rule=key[2], before=before, examples=[]))
        change.flows += 1
        if len(change.examples) < EXAMPLES:
            change.examples.append(f"{record.flow_id} {record.user or record.src} -> {record.dst}:{record.dst_port}")
    ordered = sorted(changes.values(), key=lambda change: -change.flows)
    return Replay(
        flows=counts["flows"], same=counts["same"], unjudged=counts["unjudged"], changes=ordered,
        without_groups=counts["without_groups"],
    )  # fmt: skip


def _recorded_decision(record: FlowRecord) -> tuple[str, str | None]:
    """The policy's decision at that time, and its rule. Decisions of hooks are ignored."""
    decisions = [each for each in record.decisions if each.version is not None and each.enforced]
    if not decisions:
        return "allow", None
    is_over_limit = decisions[-1].action == "rate-limit" and record.close_reason == "denied"
    last = decisions[-1]
    return "block" if last.action == "block" or is_over_limit else "allow", last.rule


def facts_of(record: FlowRecord, tunnel: TunnelInfo | None) -> ImaginedFacts:
    """The known facts about a recorded flow."""
    flow = FlowText(
        tenant=record.tenant, user=record.user, device=record.device, src=record.src, protocol=record.protocol,
        host=record.dst_host, onramp=record.onramp, network=record.vnet,
        groups=tunnel.groups if tunnel else [], posture=tunnel.posture_passed if tunnel else [],
    )  # fmt: skip
    facts = imagine(flow, "network", record.start / 1e9)
    destination = imagine(FlowText(dst=record.dst), "network", 0)
    facts.update(
        {
            "net.src.port": record.src_port,
            "net.dst.ip": destination["net.dst.ip"],
            "net.dst.port": record.dst_port,
            "net.route": record.route,
            "net.tunnel": record.tunnel,
            "device_posture.checks.failed": tuple(tunnel.posture_failed) if tunnel else (),
        }
    )
    return facts
