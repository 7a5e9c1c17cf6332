"""Which tunnels the policies let be open: clients are asked about when they come, sites and devices when it may change.

A client that may not be any more is hung up. What the settings open stays, but is refused: its packets are counted as
`denied`, its flows end, and no route leads to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from proxy.context import TunnelContext
from proxy.flow.flow import Flow
from proxy.flow.tenant import Tenant
from proxy.kernel.carrier import RampCarrier
from proxy.offramps.tunnel import routes_changed
from proxy.onramps.tunnel import Tunnel
from proxy.policy.judge import PolicyJudge

log = logging.getLogger(__name__)


class TunnelPermission:
    """Asks the policy about tunnels."""

    def __init__(self, tenants: Mapping[str, Tenant], closed: Callable[[Tunnel], None]) -> None:
        """`closed` is told of a client that was hung up."""
        self.judge: PolicyJudge | None = None  # without one, every tunnel may be
        self._tenants, self._closed = tenants, closed

    def refusal(
        self, context: TunnelContext, onramp: str = Tunnel.kind, *, site: str | None = None, tunnel: str | None = None
    ) -> str | None:
        """Why the policy does not let the tunnel be open, or None."""
        ruling = None
        if self.judge is not None:
            ruling = self.judge.judge_tunnel(context, onramp, site=site, tunnel=tunnel)
        if ruling is None or not ruling.verdict.is_denial:
            return None
        return f"the policy refuses it: {ruling.verdict.reason}"

    def review(self) -> None:
        """Do as the policies in force say with all tunnels that are there."""
        for tunnel in self._open():
            name = None if isinstance(tunnel, Tunnel) else tunnel.id  # a client's is not known when it comes
            why = self.refusal(context_of(tunnel), tunnel.kind, site=tunnel.site, tunnel=name)
            if why == tunnel.refused:
                continue
            if isinstance(tunnel, Tunnel):
                log.info("%r: %s", tunnel, why)
                tunnel.close()
                self._closed(tunnel)
            elif why is None:
                log.info("%r: the policy lets it be open again", tunnel)
                tunnel.refused = None
                tunnel.network.attach(tunnel)
                routes_changed(tunnel.network)
            else:
                log.warning("%r: %s", tunnel, why)
                _refuse(tunnel, why)

    def _open(self) -> Iterable[RampCarrier]:
        carriers = [each for tenant in self._tenants.values() for each in tenant.carriers.values()]
        return [each for each in carriers if isinstance(each, RampCarrier) and each.opens]


def context_of(tunnel: RampCarrier) -> TunnelContext:
    """What is known of a tunnel: what a client has said of itself, or the settings."""
    context: TunnelContext | None = getattr(tunnel, "context", None)
    return context or TunnelContext(
        tenant=tunnel.tenant.name, addresses=tunnel.addresses, network=tunnel.network.name, user=tunnel.user,
        device=tunnel.device,
    )  # fmt: skip


def _refuse(tunnel: RampCarrier, why: str) -> None:
    """Let nothing in by it, and send nothing out."""
    is_first, tunnel.refused = tunnel.refused is None, why
    if not is_first:
        return
    tunnel.network.detach(tunnel)
    routes_changed(tunnel.network)
    mine: list[Flow] = [flow for table in tunnel.flows.values() for flow in table.values() if flow.carrier is tunnel]
    for flow in mine:
        if flow.handler is not None:
            flow.handler.end("policy_revoked")
