"""A step between checks that puts another policy in force."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from oxyctl.topology.checks.records import ProxyCheck
from oxyctl.topology.model import ErrorAt, Lab
from oxyctl.topology.nodes.proxy import ProxyNode
from oxyctl.topology.policies import PolicyMapping, check_policies
from oxyctl.topology.quantities import Duration
from proxy.settings import suggest


class PolicyCheck(ProxyCheck, kw_only=True, frozen=True, tag="policy"):
    """A step between checks: replaces the policy of `tenant`, or of all tenants. It runs alone.

    Within `timeout` every live flow must be judged again. At the end of the run the old policies are restored.
    """

    policy: PolicyMapping
    tenant: str | None = None
    revokes: Annotated[int, Meta(ge=0)] | None = None  # how many live flows it must end
    timeout: Duration = 1

    def summary(self) -> str:
        """The tenant whose policy changes."""
        return f"of {self.tenant or 'all tenants'}"

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` unless there is such a policy, and the proxy would accept the new one."""
        super().validate(lab, error_at)
        proxies = {name: node for name, node in lab.nodes.items() if isinstance(node, ProxyNode)}
        proxy = proxies[self.proxy or next(iter(proxies))]
        replaceable = {name for name, tenant in proxy.tenants.items() if tenant.policy is not None}
        if self.tenant is not None and self.tenant not in replaceable:
            message = f"tenant '{self.tenant}' has no policy to replace{suggest(self.tenant, replaceable)}"
            raise error_at(message, "tenant")
        if self.tenant is None and proxy.policy is None:
            raise error_at("the proxy has no global policy to replace", "policy")
        global_policy = self.policy if self.tenant is None else proxy.policy
        tenant_policy = {self.tenant: self.policy} if self.tenant is not None else {}
        check_policies(global_policy, tenant_policy, lambda message, *key_path, **more: error_at(message, "policy"))
