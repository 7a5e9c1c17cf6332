"""Count each user's traffic, while flows are live and not only at their ends: `hooks: "examples.billing:Billing"`."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from proxy.hooks import FlowContext, Hooks, TunnelContext

log = logging.getLogger(__name__)


@dataclass
class Account:
    """The account of one user. It is the extension of the user's tunnels, so all of their flows have access to it."""

    user: str
    settled_bytes: int = 0
    flows: int = 0


class Billing(Hooks[Account]):
    """A tunnel without a user has no account, and is refused."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self._counted: dict[str, int] = {}  # by live flow: bytes already in its account

    async def tunnel_open(self, context: TunnelContext[Account]) -> str | None:
        if context.user is None:
            return "nobody pays for this tunnel"
        context.extension = self.accounts.setdefault(context.user, Account(context.user))
        return None

    async def flow_update(self, flow: FlowContext[Account]) -> None:
        self._count(flow)

    async def flow_end(self, flow: FlowContext[Account]) -> None:
        self._count(flow)
        self._counted.pop(flow.flow_id, None)
        if flow.extension is not None:
            flow.extension.flows += 1

    async def shutdown(self) -> None:
        for account in self.accounts.values():
            log.info("%s: %d bytes in %d flows", account.user, account.settled_bytes, account.flows)

    def _count(self, flow: FlowContext[Account]) -> None:
        if flow.extension is None:
            return
        moved = flow.total.client_bytes + flow.total.origin_bytes
        flow.extension.settled_bytes += moved - self._counted.get(flow.flow_id, 0)
        self._counted[flow.flow_id] = moved
