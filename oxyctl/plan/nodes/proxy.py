"""Plans the proxy under test: its namespace, its `proxy.yaml`, its process and its sockets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import yaml

from oxyctl.net.sockets import is_too_long
from oxyctl.plan.draft import Draft
from oxyctl.plan.site_onramps import on_ramps, tenant_settings
from oxyctl.plan.site_tunnels import EDGE_SYSCTLS, has_kernel_edge
from oxyctl.plan.steps import INHERITED, Control, Process
from oxyctl.topology.nodes import ProxyNode
from oxyctl.topology.nodes.proxy import LabTenant
from oxyctl.topology.policies import PolicyMapping, policy_path, policy_text
from proxy.settings import ConnectedOnRamp, Settings, TenantSettings

CONTROL, TUNNELS = "control.sock", "tunnels.sock"
SYSCTLS = {
    # lets the proxy's user open ICMP datagram sockets; a user namespace that maps one group accepts only "0 0"
    "net/ipv4/ping_group_range": ["0 2147483647", "0 0"],
    "net/ipv4/ip_local_port_range": ["1024 65535"],
}


def plan_proxy(name: str, node: ProxyNode, draft: Draft) -> None:
    """Add the namespace, `proxy.yaml`, process and sockets of a proxy to the draft."""
    is_edge = has_kernel_edge(draft.lab, name, draft.kernel_kinds)
    draft.add_namespace(name, SYSCTLS | (EDGE_SYSCTLS if is_edge else {}))
    home = draft.home(name)
    draft.add_file(home / "proxy.yaml", _yaml(_settings(name, node, home, draft)))
    for tenant, policy in _policies(node):
        draft.add_file(home / policy_path(tenant), policy_text(policy))
    process = Process(
        name=name,
        node=name,
        command=[sys.executable, "-m", "proxy", str(home / "proxy.yaml")],
        directory=str(draft.base if node.settings.hooks else home),  # `python -m` imports from there
        environment=draft.environment(name),
        inherit=str(home) if is_too_long(home / TUNNELS) else None,
    )
    draft.processes.append(process)
    control = str(home / CONTROL)
    draft.add_node(name, node.kind, process=name, probe=Control(socket=control), control=control)


def _policies(node: ProxyNode) -> Iterator[tuple[str | None, PolicyMapping]]:
    """Each policy with its tenant; None: the policy of all tenants."""
    if node.policy is not None:
        yield None, node.policy
    for tenant, settings in node.tenants.items():
        if settings.policy is not None:
            yield tenant, settings.policy


def _settings(name: str, node: ProxyNode, home: Path, draft: Draft) -> Settings:
    sockets = f"/proc/self/fd/{INHERITED}" if is_too_long(home / TUNNELS) else str(home)
    overrides = node.settings
    tenants = {
        tenant: draft.trust.with_origin_trust(
            tenant_settings(name, tenant, _with_gateway(name, node, settings, draft), draft.lab)
        )
        for tenant, settings in node.tenants.items()
    }
    policies: list[str] = []
    for tenant, _ in _policies(node):
        if tenant is None:
            policies.append(policy_path(None))
        else:
            files = [*tenants[tenant].policies, policy_path(tenant)]
            tenants[tenant] = msgspec.structs.replace(tenants[tenant], policies=files)
    return Settings(
        node=name,
        tenants=tenants,
        policies=policies,
        onramps=[ConnectedOnRamp(path=f"{sockets}/{TUNNELS}"), *on_ramps(name, draft)],
        control=f"{sockets}/{CONTROL}",
        records=overrides.records,
        timeouts=overrides.timeouts,
        bridge=overrides.bridge,
        hooks=overrides.hooks,
        offramp=overrides.offramp,
        kernel=overrides.kernel,
        inspectors=overrides.inspectors,
    )


def _with_gateway(name: str, node: ProxyNode, tenant: LabTenant, draft: Draft) -> TenantSettings:
    """The tenant's settings as in the lab file. By default its gateway has the node's first address of each family."""
    settings = tenant.settings(list(node.attached))
    if settings.gateway:
        return settings
    networks = list(node.attached) if tenant.network is None else [tenant.network]
    addresses = [interface.ip for network in networks for interface in draft.assigned[name][network]]
    first = {address.version: str(address) for address in reversed(addresses)}
    return msgspec.structs.replace(settings, gateway=[first[version] for version in sorted(first)])


def _yaml(settings: Settings) -> str:
    return str(yaml.safe_dump(msgspec.to_builtins(settings), sort_keys=False))
