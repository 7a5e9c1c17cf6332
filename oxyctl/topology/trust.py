"""Which authorities a node trusts in addition to the system's, and whether sessions may be inspected."""

from __future__ import annotations

from oxyctl.topology.checks import PolicyCheck
from oxyctl.topology.model import ErrorAt, Lab
from oxyctl.topology.nodes import ProxyNode, SiteNode, WarpNode
from oxyctl.topology.policies import PolicyMapping
from proxy.settings.inspection import Inspection

INSPECTED_LEVELS = ("tls", "http")


def tenant_of(lab: Lab, name: str) -> tuple[str, str] | None:
    """The proxy and the tenant of a node's traffic, if it is a client or at a site; else None."""
    node = lab.nodes[name]
    if isinstance(node, WarpNode):
        return node.proxy, node.tenant
    for site_name, site in lab.nodes.items():
        if isinstance(site, SiteNode) and (site_name == name or site.lan.name in node.attached):
            return None if site.via is None else (site.via, site.tenant)
    return None


def check_trust(name: str, lab: Lab, error_at: ErrorAt) -> None:
    """Raise `error_at(...)` if a node trusts its tenant's authority but has no tenant."""
    if lab.nodes[name].trust == "tenant-ca" and tenant_of(lab, name) is None:
        raise error_at(f"node '{name}' belongs to no tenant: it is neither a client nor behind a site", "trust")


def may_inspect(lab: Lab) -> bool:
    """Whether anything in the lab file may cause sessions to be inspected: proxies then need the lab's roots."""
    proxies = [node for node in lab.nodes.values() if isinstance(node, ProxyNode)]
    policies = [check.policy for check in lab.checks if isinstance(check, PolicyCheck)]
    return (
        any(node.trust is not None for node in lab.nodes.values())
        or any(map(_may_inspect, proxies))
        or any(map(_inspects, policies))
    )


def _may_inspect(proxy: ProxyNode) -> bool:
    tenants = list(proxy.tenants.values())
    levels: list[str | None] = [tenant.level for tenant in tenants]
    levels += [route.level for tenant in tenants for parts in tenant.networks.values() for route in parts.routes]
    return (
        proxy.settings.hooks is not None
        or any(level in INSPECTED_LEVELS for level in levels)
        or any(tenant.inspection != Inspection() for tenant in tenants)
        or any(map(_inspects, [proxy.policy, *(tenant.policy for tenant in tenants)]))
    )


def _inspects(policy: PolicyMapping | None) -> bool:
    """Whether a rule of the policy inspects sessions. Errors in the policy are reported elsewhere."""
    rules = (policy or {}).get("rules") or []
    return any(isinstance(rule, dict) and rule.get("action") == "inspect" for rule in rules)
