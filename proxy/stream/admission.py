"""Flow admission: policy decides first, then the application's hooks. Both decisions are recorded in the flow."""

from __future__ import annotations

import heapq
import itertools
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.hooks import FlowContext, HookRunner
from proxy.stream.pacing import Pacer
from proxy.verdict import ALLOW, Decision, Failure, Ruling, Verdict, deny

log = logging.getLogger(__name__)

ALLOWED_BY_DEFAULT = [Decision(stage="flow_start", policy="default", action="allow", reason="no policy is configured")]
ALLOWED_BY_HOOK = [Decision(stage="flow_start", policy="hook", action="allow")]
NO_TIME = 0.0  # neither policy nor hooks were asked
STAGES = ("flow_start", "route", "level", "connect")  # hooks that decide about a new flow, in order


class Judge(Protocol):
    """A policy. Called once per flow, before any hook, and again when its verdict expires."""

    def judge(self, flow: Flow) -> Ruling:
        """The verdict on the flow in its current state, with the decisions that led to it. Must not block."""
        ...


class Admission:
    """Asks policy and hooks, and records their verdicts. `judge` is None, at no cost, if no policy is loaded."""

    def __init__(self, hooks: HookRunner, make_context: Callable[[Flow], FlowContext[Any]]) -> None:
        """`make_context(flow)` makes the context that hooks receive."""
        self.hooks = hooks
        self.judge: Judge | None = None
        self.pacer = Pacer()
        self.stages = tuple(stage for stage in STAGES if hooks.has(stage))
        self._make_context = make_context
        self._review_queue: list[tuple[float, int]] = []  # heap of (time to judge again, number of the flow)
        self._flows_by_review: dict[int, Flow] = {}  # flows by that number, while they are live
        self._reviews: dict[Flow, tuple[float, int]] = {}
        self._numbers = itertools.count()

    def ask_policy(self, flow: Flow) -> Verdict:
        """Ask the policy and record its verdict in the flow. A policy that raises denies."""
        if self.judge is None:
            flow.policy_ms, flow.decisions = NO_TIME, ALLOWED_BY_DEFAULT
            return ALLOW
        began = time.monotonic()
        try:
            ruling = self.judge.judge(flow)
        except Exception:
            log.exception("the policy failed on %r", flow)
            return self._record(flow, "network", "policy", Failure(action="deny", reason="the policy failed"))
        flow.policy_ms = (time.monotonic() - began) * 1000
        flow.decisions = ruling.decisions
        return self._apply(flow, ALLOW if _is_plain(ruling.verdict) else ruling.verdict)

    async def ask_hook(self, flow: Flow, stage: str) -> Verdict:
        """Ask the application at this stage and record its verdict in the flow."""
        context = self._make_context(flow)
        verdict = await self.hooks.ask(stage, context)
        self._keep_extension(flow, context)
        flow.policy_ms = (time.monotonic() - flow.started_at) * 1000
        return self._record(flow, stage, "hook", verdict)

    def ask(self, flow: Flow, then: Callable[[Verdict], None]) -> None:
        """Ask about a flow that the origin opened. Such a flow can only be allowed or denied."""
        verdict = self.ask_policy(flow)
        if verdict.is_denial or "flow_start" not in self.stages:
            then(verdict)
            return

        async def run() -> None:
            answer = await self.ask_hook(flow, "flow_start")
            if not flow.is_ended:
                then(answer)

        self.hooks.spawn(run(), failed=partial(end_failed, flow))

    def ask_inspection_hook(
        self,
        flow: Flow,
        hook: str,
        make_argument: Callable[[FlowContext[Any]], Any],
        then: Callable[[bytes | Verdict], None],
    ) -> None:
        """Ask a hook about something that an inspector read from the flow. `make_argument` makes its argument."""
        context = self._make_context(flow)

        async def run() -> None:
            answer = await self.hooks.ask_for_inspector(hook, make_argument(context))
            self._keep_extension(flow, context)
            then(answer)

        self.hooks.spawn(run(), failed=partial(end_failed, flow))

    def _keep_extension(self, flow: Flow, context: FlowContext[Any]) -> None:
        """Keep the context's extension, since the application may have assigned a new one."""
        if context.extension is not flow.carrier.extension:
            flow.extension = context.extension

    def tick(self, now: float) -> None:
        """Judge flows with expired verdicts again, and divide shared byte limits anew."""
        self.pacer.tick(now)
        expired = []
        while self._review_queue and self._review_queue[0][0] <= now:
            _, number = heapq.heappop(self._review_queue)
            if (flow := self._flows_by_review.pop(number, None)) is not None:
                del self._reviews[flow]
                expired.append(flow)
        for flow in expired:
            if not flow.is_ended:
                self._judge_again(flow)

    def forget(self, flow: Flow) -> None:
        """Drop the expiry entry of a flow that has ended. Flows whose verdicts never expire have none."""
        if self._reviews and (review := self._reviews.pop(flow, None)) is not None:
            del self._flows_by_review[review[1]]

    def _review_at(self, flow: Flow, due: float) -> None:
        """Judge the flow again at `due`, or when an earlier verdict on it expires, if that is sooner."""
        earlier = self._reviews.get(flow)
        if earlier is not None and earlier[0] <= due:
            return
        self.forget(flow)
        number = next(self._numbers)
        self._reviews[flow], self._flows_by_review[number] = (due, number), flow
        heapq.heappush(self._review_queue, (due, number))

    def record_failure(self, flow: Flow, stage: str, why: str) -> Verdict:
        """Handle a verdict that cannot be carried out: apply the application's setting for failures, and record it."""
        log.warning("hook %s: %s (%r)", stage, why, flow)
        return self._record(flow, stage, "hook", self.hooks.failure(stage, why))

    def refuse(self, flow: Flow, stage: str, reason: str) -> Verdict:
        """A denial by the proxy itself, recorded in the flow. It is a reset, so that the client does not wait."""
        return self._record(flow, stage, "default", deny(reason, refusal="reset"))

    def _judge_again(self, flow: Flow) -> None:
        decisions = flow.decisions

        def then(verdict: Verdict) -> None:
            flow.decisions = [*decisions, *(each for each in flow.decisions if each not in decisions)]
            if verdict.is_denial and flow.handler is not None:
                flow.handler.end("policy_revoked")

        self.ask(flow, then)

    def _record(self, flow: Flow, stage: str, policy: str, verdict: Verdict) -> Verdict:
        if verdict is ALLOW:
            if flow.decisions is ALLOWED_BY_DEFAULT and stage == "flow_start":
                flow.decisions = ALLOWED_BY_HOOK
            return verdict
        decision = Decision(stage=stage, policy=policy, action=_action(verdict), reason=verdict.reason)
        before = [] if flow.decisions is ALLOWED_BY_DEFAULT else flow.decisions
        flow.decisions = [*before, decision]
        return self._apply(flow, verdict)

    def _apply(self, flow: Flow, verdict: Verdict) -> Verdict:
        if verdict.ttl_s is not None and not verdict.is_denial:
            self._review_at(flow, time.monotonic() + verdict.ttl_s)
        if verdict.paces:
            self.pacer.limit(flow, verdict.paces)
        if verdict.is_denial:
            flow.verdict = "error" if isinstance(verdict, Failure) else "denied"
            flow.tenant.drops[DropReason.DENIED] += 1
        return verdict


def end_failed(flow: Flow) -> None:
    """End only the flow in which a bug occurred."""
    if flow.handler is not None:
        flow.handler.end("proxy_error")


def _is_plain(verdict: Verdict) -> bool:
    """Whether the verdict allows the flow and has no other effect."""
    effects = verdict.level, verdict.offramp, verdict.origin, verdict.ttl_s
    return verdict.action == "allow" and not verdict.paces and all(effect is None for effect in effects)


def _action(verdict: Verdict) -> str:
    """The action of the verdict, as written in decision records."""
    if verdict.is_denial:
        return "deny"
    if verdict.origin is not None:
        return "redirect"
    if verdict.offramp is not None:
        return f"route {verdict.offramp}"
    return "allow" if verdict.level is None else f"level {verdict.level}"
