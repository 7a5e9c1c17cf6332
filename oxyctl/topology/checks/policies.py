"""A step between checks that puts another policy in force."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from oxyctl.topology.checks.records import OfProxy
from oxyctl.topology.model import Complaint, Lab
from oxyctl.topology.nodes.proxy import ProxyNode
from oxyctl.topology.policies import PolicyMapping, check_policies
from oxyctl.topology.quantities import Duration
from proxy.settings import suggest


class PolicyCheck(OfProxy, kw_only=True, frozen=True, tag="policy"):
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

    def validate(self, lab: Lab, complain: Complaint) -> None:
        """Raise `complain(...)` unless there is such a policy, and the proxy would accept the new one."""
        super().validate(lab, complain)
        proxies = {name: node for name, node in lab.nodes.items() if isinstance(node, ProxyNode)}
        proxy = proxies[self.proxy or next(iter(proxies))]
        having = {name for name, tenant in proxy.tenants.items() if tenant.policy is not None}
        if self.tenant is not None and self.tenant not in having:
            message = f"tenant '{self.tenant}' has no policy that can be replaced{suggest(self.tenant, having)}"
            raise complain(message, "tenant")
        if self.tenant is None and proxy.policy is None:
            raise complain("the proxy has no policy for all tenants that could be replaced", "policy")
        of_all = self.policy if self.tenant is None else proxy.policy
        of_one = {self.tenant: self.policy} if self.tenant is not None else {}
        check_policies(of_all, of_one, lambda message, *place, **more: complain(message, "policy"))
