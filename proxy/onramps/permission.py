"""Asks policies which tunnels may be open: clients when they connect; sites and devices when the verdict may change.

If a client is no longer permitted, its tunnel is closed. A tunnel of the settings stays open but is refused: its
packets are counted as `denied`, its flows end, and no route leads to it.
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
from proxy.verdict import Decision, Ruling

log = logging.getLogger(__name__)


class TunnelPermission:
    """Asks the policy about tunnels."""

    def __init__(self, tenants: Mapping[str, Tenant], closed: Callable[[Tunnel], None]) -> None:
        """`closed` is called for each client tunnel that is closed."""
        self.judge: PolicyJudge | None = None  # None: every tunnel is permitted
        self._tenants, self._closed = tenants, closed

    def refusal(self, context: TunnelContext) -> str | None:
        """The reason why the policy does not let a client open a tunnel, or None."""
        return _reason(self._ruling(context, Tunnel.kind))

    def _ruling(
        self, context: TunnelContext, onramp: str, site: str | None = None, tunnel: str | None = None
    ) -> Ruling | None:
        """The policy's ruling, or None if no rule is about tunnels."""
        return None if self.judge is None else self.judge.judge_tunnel(context, onramp, site=site, tunnel=tunnel)

    def review(self) -> None:
        """Apply the current policies to all tunnels."""
        for tunnel in self._open():
            name = None if isinstance(tunnel, Tunnel) else tunnel.id  # a client's tunnel is judged before it has one
            ruling = self._ruling(context_of(tunnel), tunnel.kind, tunnel.site, name)
            why = _reason(ruling)
            if why == tunnel.refused:
                continue
            if isinstance(tunnel, Tunnel):
                log.info("%r: %s", tunnel, why)
                tunnel.close()
                self._closed(tunnel)
            elif ruling is None or why is None:
                log.info("%r: permitted by the policy again", tunnel)
                tunnel.refused = None
                tunnel.network.attach(tunnel)
                routes_changed(tunnel.network)
            else:
                log.warning("%r: %s", tunnel, why)
                _refuse(tunnel, why, ruling.decisions)

    def _open(self) -> Iterable[RampCarrier]:
        carriers = [each for tenant in self._tenants.values() for each in tenant.carriers.values()]
        return [each for each in carriers if isinstance(each, RampCarrier) and each.can_open_flows]


def context_of(tunnel: RampCarrier) -> TunnelContext:
    """The context of a tunnel: from the client's introduction, or from the settings."""
    context: TunnelContext | None = getattr(tunnel, "context", None)
    return context or TunnelContext(
        tenant=tunnel.tenant.name, addresses=tunnel.addresses, network=tunnel.network.name, user=tunnel.user,
        device=tunnel.device,
    )  # fmt: skip


def _reason(ruling: Ruling | None) -> str | None:
    if ruling is None or not ruling.verdict.is_denial:
        return None
    return f"the policy refuses it: {ruling.verdict.reason}"


def _refuse(tunnel: RampCarrier, why: str, decisions: list[Decision]) -> None:
    """Admit no packets from the tunnel, and send none into it."""
    is_first, tunnel.refused = tunnel.refused is None, why
    if not is_first:
        return
    tunnel.network.detach(tunnel)
    routes_changed(tunnel.network)
    mine: list[Flow] = [flow for table in tunnel.flows.values() for flow in table.values() if flow.carrier is tunnel]
    for flow in mine:
        if flow.handler is not None:
            flow.decisions, flow.verdict = [*flow.decisions, *decisions], "denied"
            flow.handler.end("policy_revoked")
