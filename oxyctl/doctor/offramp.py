"""The kernel off-ramp: required features of this kernel, and obstacles on this host."""

from __future__ import annotations

from functools import cache, partial

from oxyctl.doctor.finding import Outcome, Trial
from oxyctl.doctor.modules import module_fix
from oxyctl.doctor.sandbox import in_sandbox
from proxy.kernel.obstacles.judge import Facts, Kind, judge
from proxy.kernel.obstacles.probes import PROBES, problem
from proxy.kernel.obstacles.survey import default_interfaces, gather
from proxy.settings import KernelOffRamp

ON_THIS_HOST = "a proxy on this host with offramp: kernel"
KINDS: dict[Kind, str] = {  # kinds of obstacles, and the names of their trials
    "firewall": "firewall",
    "routing rules": "routing rules",
    "rp_filter": "rp_filter",
    "conntrack": "conntrack room",
    "forwarding": "forwarding",
    "IPv6": "IPv6 forwarding",
}


def trials() -> list[Trial]:
    """Trials. Features that labs use too are tried in a sandbox, the rest in the doctor's own network namespace."""
    probes = [
        Trial(name, needed_for, partial(in_sandbox, partial(_probe, name)), fix=module_fix(module))
        for name, (module, _, needed_for) in PROBES.items()
    ]
    return [*probes, *(Trial(name, ON_THIS_HOST, partial(_judge, kind)) for kind, name in KINDS.items())]


def _probe(name: str) -> Outcome:
    found = problem(name)
    return Outcome("ok") if found is None else Outcome("degraded", found)


def _judge(kind: Kind) -> Outcome:
    facts = _facts()
    obstacles = [obstacle for obstacle in judge(facts) if obstacle.kind == kind]
    if serious := [obstacle for obstacle in obstacles if not obstacle.is_note]:
        fixes = dict.fromkeys(obstacle.fix for obstacle in serious if obstacle.fix)
        return Outcome("degraded", "; ".join(obstacle.text for obstacle in serious), "; ".join(fixes) or None)
    if kind == "firewall" and facts.ruleset is None:
        return Outcome("ok", "not tried: nft is not installed" if facts.may_change else "not tried: it needs root")
    return Outcome("ok", "; ".join(obstacle.text for obstacle in obstacles))


@cache
def _facts() -> Facts:
    """Facts about this host, as a proxy with default settings would use it."""
    return gather(KernelOffRamp(), interfaces=default_interfaces())
