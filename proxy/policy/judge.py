"""The policies in force: they judge each new flow, are reloaded as a whole, and then judge live flows again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable

from proxy.context import TunnelContext
from proxy.flow.flow import Flow
from proxy.policy.answers import Explanation, PolicyInfo, Question, Reloaded
from proxy.policy.engine import Policies, join
from proxy.policy.explain import describe, explain
from proxy.policy.facts import FlowFacts, tunnel_facts
from proxy.policy.load import compile_policies
from proxy.policy.source import Source
from proxy.settings import DocumentError, suggest
from proxy.verdict import ALLOW, Decision, Ruling

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.5  # interval of checks for changes, if the source is watched
BATCH_FLOWS = 100  # live flows judged again before packets are handled: about a millisecond
NO_POLICY = Ruling(
    ALLOW, [Decision(stage="network", policy="default", action="allow", reason="no policy is in force for the tenant")]
)


class PolicyJudge:
    """Judges flows and tunnels by the policies in force."""

    def __init__(
        self, source: Source, tenants: Iterable[str], live: Callable[[], Iterable[Flow]],
        before_reload: Callable[[], Awaitable[None]] | None = None, state: Callable[[], Hashable] | None = None,
        check: Callable[[Policies], None] = lambda policies: None,
    ) -> None:  # fmt: skip
        """Load the policies. DocumentError: a mistake. `live`: iterates over all live flows, while flows begin and end;
        `before_reload` is awaited before each reload; a change of the value of `state` triggers one; `check` raises
        DocumentError for policies that cannot be applied here."""
        self._before_reload = before_reload
        self._state = state
        self.source, self._tenants, self._live = source, tuple(tenants), live
        self._check = check
        self.policies = self._load()
        self.loaded_at = time.time()
        self.problem: str | None = None  # why the last reload failed
        self.revoked = 0
        self._reloading = asyncio.Lock()
        self._next_change = self.policies.next_change(time.time())
        self._last_state = self._loaded = None if state is None else state()
        self._next_check = 0.0
        self._rejudging: asyncio.Task[None] | None = None
        self._reload_task: asyncio.Task[None] | None = None
        self._changed: list[Callable[[Policies], None]] = []
        self.review_tunnels: Callable[[], None] = lambda: None  # called when permissions of tunnels may have changed

    def _load(self) -> Policies:
        loaded = compile_policies(self.source, self._tenants, time.time())
        self._check(loaded)
        return loaded

    def judge(self, flow: Flow) -> Ruling:
        """The verdict on a flow. Limits count the flow unless it was judged before."""
        return self._judge(flow, time.time(), _was_judged(flow.decisions))

    def _judge(self, flow: Flow, now: float, is_repeat: bool) -> Ruling:
        policies, tenant = self.policies, flow.tenant.name
        facts = FlowFacts(flow, now)
        network = policies.rule(tenant, "network", facts, flow, is_repeat=is_repeat)
        if policies.has(tenant, "egress") and not (network is not None and network.verdict.is_denial):
            network = join(network, policies.rule(tenant, "egress", facts, flow, is_repeat=is_repeat))
        return network or NO_POLICY

    def judge_tunnel(
        self, context: TunnelContext, onramp: str, *, site: str | None = None, tunnel: str | None = None
    ) -> Ruling | None:
        """The verdict on a tunnel that is to be opened, or to stay open; None: no policy covers tunnels."""
        if not self.policies.has(context.tenant, "tunnel"):
            return None
        facts = tunnel_facts(context, onramp, time.time(), site=site, tunnel=tunnel)
        return self.policies.rule(context.tenant, "tunnel", facts)

    def subscribe(self, changed: Callable[[Policies], None]) -> None:
        """Call `changed` with the policies of each later version, before they judge flows."""
        self._changed.append(changed)

    def tick(self, now: float) -> None:
        """Judge live flows again if a rule's schedule has started or ended; reload changed files. `now`: Unix s."""
        if now >= self._next_change:
            self._next_change = self.policies.next_change(now)
            self.review_tunnels()
            self._rejudging = asyncio.get_running_loop().create_task(self.judge_again())
        if self._state is not None and now >= self._next_check:
            self._next_check = now + WATCH_INTERVAL_S
            # twice the same state, since most programs write a file in several steps
            earlier, self._last_state = self._last_state, self._state()
            if self._last_state == earlier != self._loaded:
                self._loaded = self._last_state
                self._reload_task = asyncio.get_running_loop().create_task(self._reload_quietly())

    async def _reload_quietly(self) -> None:
        with contextlib.suppress(DocumentError):  # it is logged
            await self.reload()

    def count(self, tenant: str, decisions: Iterable[Decision]) -> None:
        """Count decisions made in another process, by the policies there."""
        self.policies.count(tenant, decisions, time.time())

    def describe(self, *, text: bool) -> list[PolicyInfo]:
        """The policies in force."""
        return describe(self.policies, self.loaded_at, text=text)

    def explain(self, question: Question) -> Explanation | None:
        """How a flow would be decided. ValueError: the description of the flow is invalid."""
        tenant = question.flow.tenant
        if tenant is not None and tenant not in self._tenants:
            raise ValueError(f"the proxy has no tenant '{tenant}'{suggest(tenant, self._tenants)}", "tenant")
        return explain(self.policies, question, time.time())

    async def reload_and_report(self) -> Reloaded:
        """Reload, and return the result."""
        earlier, revoked = self.policies.version, self.revoked
        policies = await self.reload()
        count = sum(len(policy.rules) for policy in policies.policies)
        return Reloaded(version=policies.version, before=earlier, rules=count, revoked=self.revoked - revoked)

    async def reload(self) -> Policies:
        """Reload the source as a whole. DocumentError: something in it is invalid, and nothing changes."""
        async with self._reloading:
            if self._before_reload is not None:
                await self._before_reload()
            try:
                # in a thread, since parsing 10,000 rules takes seconds
                loaded = await asyncio.to_thread(self._load)
            except DocumentError as error:
                self.problem = str(error)
                log.warning("policies not reloaded, version %s stays in force: %s", self.policies.version, error)
                raise
            self.problem = None
            loaded.inherit(self.policies)
            previous, self.policies, self.loaded_at = self.policies, loaded, time.time()
            self._next_change = loaded.next_change(self.loaded_at)
            for changed in self._changed:
                changed(loaded)
            self.review_tunnels()
            if loaded.version != previous.version:
                log.info("policies reloaded: version %s (before: %s)", loaded.version, previous.version)
                await self.judge_again(
                    {each for each in self._tenants if loaded.versions_of(each) != previous.versions_of(each)}
                )
            return loaded

    async def judge_again(self, tenants: Collection[str] | None = None) -> None:
        """Judge live flows, of these tenants or of all, by the policies in force; those no longer allowed end."""
        live = iter(self._live())
        while flows := list(itertools.islice(live, BATCH_FLOWS)):
            now = time.time()
            for flow in flows:
                if (tenants is None or flow.tenant.name in tenants) and flow.ended_ns is None:
                    self._judge_again(flow, now)
            await asyncio.sleep(0)

    def _judge_again(self, flow: Flow, now: float) -> None:
        if flow.handler is None or not flow.decisions:
            return
        ruling = self._judge(flow, now, _was_judged(flow.decisions))
        if not ruling.verdict.is_denial and _is_quarantined(flow.decisions) == (ruling.verdict.origin is not None):
            return
        self.revoked += 1
        flow.decisions = [*flow.decisions, *(each for each in ruling.decisions if each not in flow.decisions)]
        if ruling.verdict.is_denial:
            flow.verdict = "denied"
        flow.handler.end("policy_revoked")


def _was_judged(decisions: list[Decision]) -> bool:
    """Whether a policy has judged the flow before."""
    for each in decisions:  # noqa: SIM110 -- any() over a generator costs 0.3 us more
        if each.version is not None:
            return True
    return False


def _is_quarantined(decisions: list[Decision]) -> bool:
    """Whether a policy has sent the flow to another origin."""
    for each in decisions:  # noqa: SIM110 -- the same
        if each.action == "quarantine" and each.enforced:
            return True
    return False
