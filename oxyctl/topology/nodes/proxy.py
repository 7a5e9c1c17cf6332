"""The proxy under test: `python -m proxy` with settings made from the lab."""

from __future__ import annotations

import msgspec
from msgspec import field

from oxyctl.topology.model import ErrorAt, Lab, Networks, Node, Part
from oxyctl.topology.policies import PolicyMapping, check_policies
from proxy.settings import Bridge, KernelOffRamp, Records, TenantSettings, Timeouts, suggest
from proxy.settings.inspection import InspectorCount
from proxy.settings.model import OffRampName


class Overrides(Part, frozen=True):
    """Settings of `proxy.yaml` that a lab may change, besides the tenants."""

    timeouts: Timeouts = Timeouts()
    records: Records = Records()
    bridge: Bridge = Bridge()
    hooks: str | None = None  # "module:Class", imported from the directory of the lab file
    offramp: OffRampName = "kernel"  # the namespace is the lab's own
    kernel: KernelOffRamp = KernelOffRamp()
    inspectors: InspectorCount = "auto"


class LabTenant(TenantSettings, kw_only=True, frozen=True):
    """A customer of a proxy in a lab."""

    policy: PolicyMapping | None = None  # as in a policy file
    network: str | None = None  # its origins are only in this network or behind it

    def settings(self, interfaces: list[str]) -> TenantSettings:
        """The settings for proxy.yaml. `interfaces`: the proxy's networks, in the order of its interfaces."""
        known = {each.name: getattr(self, each.name) for each in msgspec.structs.fields(TenantSettings)}
        egress = self.egress if self.network is None else f"eth{interfaces.index(self.network)}"
        return TenantSettings(**known | {"egress": egress})


class ProxyNode(Node, kw_only=True, frozen=True, tag="proxy"):
    """Clients reach it through a Unix socket in the run directory; it reaches origins through its networks."""

    tenants: dict[str, LabTenant]
    networks: Networks = field(default_factory=dict)
    policy: PolicyMapping | None = None  # the policy of all tenants, applied before their own
    settings: Overrides = Overrides()

    def check(self, name: str, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for missing tenants, an invalid policy, or an unknown network or interface."""
        if not self.tenants:
            raise error_at("at least one tenant is required", "tenants")
        policies = {name: tenant.policy for name, tenant in self.tenants.items() if tenant.policy is not None}
        if self.policy is not None or policies:
            check_policies(self.policy, policies, error_at)
        for tenant_name, tenant in self.tenants.items():
            if tenant.network is not None and tenant.network not in self.attached:
                unknown = f"proxy '{name}' is in no network '{tenant.network}'{suggest(tenant.network, self.attached)}"
                raise error_at(unknown, "tenants", tenant_name, "network")
            interfaces = [f"eth{number}" for number in range(len(self.attached))]
            if tenant.egress is not None and tenant.egress not in interfaces:
                unknown = f"proxy '{name}' has no interface '{tenant.egress}'{suggest(tenant.egress, interfaces)}"
                raise error_at(unknown, "tenants", tenant_name, "egress")
