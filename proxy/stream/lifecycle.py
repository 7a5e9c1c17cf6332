"""The life of a flow as everybody sees it: opened, connected, ended, each said once; and the timers that end it."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

from proxy.errors import DropReason
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.flow.record import CloseReason, Decision, Event, FlowRecord
from proxy.flow.tenant import Tenant
from proxy.flow.timers import Wheel
from proxy.hooks import HookRunner
from proxy.stream.admission import Judge
from proxy.stream.descriptors import Descriptors

log = logging.getLogger(__name__)

Sink = Callable[[FlowRecord], None]

EVENTS: tuple[Event, ...] = ("start", "connected", "update", "end")
DUE_SLICE = 500  # flows whose time has come: 1 to 5 ms
UPDATES_PER_TICK = 500  # records of live flows: about 5 ms
IDLE_CHECKS = 4  # readings of a flow's counters in each idle timeout: it ends after 1 to 1.25 times the timeout
ALLOWED_BY_DEFAULT = [Decision(stage="flow_start", policy="default", action="allow", reason="no policy is configured")]
NO_TIME = 0.0  # nobody was asked
TAKEN_BACK = [Decision(stage="flow_start", policy="default", action="allow", reason="taken back from a killed proxy")]
ALLOWED_BY_HOOK = [Decision(stage="flow_start", policy="hook", action="allow")]


class TimedHandler(Protocol):
    """What a flow's timer wakes."""

    def expired(self, now: float) -> None: ...

    def end(self, reason: CloseReason) -> None: ...

    def replaced(self) -> None:
        """A later flow has this one's addresses and ports: the client must hear no more of this one."""
        ...


class Lifecycle:
    """Every flow's start, connection and end pass here, to the hooks and to whoever listens."""

    def __init__(self, node: str, hooks: HookRunner, descriptors: Descriptors) -> None:
        self.node = node
        self.hooks = hooks
        self.wheel: Wheel[Flow] = Wheel()
        self.flows = 0
        self.descriptors = descriptors
        self.judge: Judge | None = None  # None: no policy is named, which costs nothing
        self._sinks: dict[Event, list[Sink]] = {event: [] for event in EVENTS}
        self._due: deque[Flow] = deque()
        self._updates: Iterator[Flow] = iter(())
        self._next_update = 0.0

    def subscribe(self, sink: Sink, *events: Event) -> Callable[[], None]:
        """Call `sink` with every record of these events (all, by default) from now on; the result ends that."""
        wanted = [self._sinks[event] for event in events or EVENTS]
        for sinks in wanted:
            sinks.append(sink)

        def unsubscribe() -> None:
            for sinks in wanted:
                sinks.remove(sink)

        return unsubscribe

    def begin(self, flow: Flow, handler: TimedHandler, decided: Callable[[str | None], None]) -> None:
        """Enter the flow into its tenant's table and ask whether it may be: `decided(reason of a denial or None)`."""
        flow.handler = handler
        if flow.seq:  # it was begun, and then lifted
            self._decided(flow, decided, None)
            return
        number = PROTOCOL_NUMBERS[flow.protocol]
        for earlier in flow.tenant.occupants(number, flow):  # its ports are used again before its last packets faded
            earlier.handler.replaced()
            if not earlier.is_recorded:
                self.ended(earlier)
        flow.tenant.add(number, flow)
        self.flows += 1
        self._tell(flow, "start")
        denial = None if self.judge is None else self._judge(self.judge, flow)
        if denial is None and self.hooks.has("flow_start"):
            self.hooks.ask_then("flow_start", self.look(flow), partial(self._decided, flow, decided))
        else:
            self._decided(flow, decided, denial)

    def _judge(self, judge: Judge, flow: Flow) -> str | None:
        """Why the policy does not let the flow be, or None. A policy that fails denies."""
        try:
            ruling = judge.judge(flow)
        except Exception:
            log.exception("the policy failed on %r", flow)
            flow.verdict = "denied"
            flow.decisions = [Decision(stage="network", policy="policy", action="deny", reason="the policy failed")]
            return "the policy failed"
        flow.decisions = ruling.decisions
        if not ruling.verdict.is_denial:
            return None
        flow.verdict = "denied"
        return ruling.verdict.reason or "denied"

    def resume(self, flow: Flow, handler: TimedHandler) -> None:
        """Enter a flow that was begun and decided by a proxy before this one."""
        flow.handler = handler
        flow.decisions = TAKEN_BACK
        flow.tenant.add(PROTOCOL_NUMBERS[flow.protocol], flow)
        self.flows += 1

    def _decided(self, flow: Flow, decided: Callable[[str | None], None], denial: str | None) -> None:
        try:
            decided(denial)
        except Exception:
            log.exception("unexpected error at the start of %r", flow)
            handler: TimedHandler = flow.handler
            handler.end("proxy_error")

    def decide(self, flow: Flow, denial: str | None) -> bool:
        """Write down what was said at the flow's start; whether it may go on."""
        policy = flow.decisions
        if denial is None and not policy and not self.hooks.has("flow_start"):
            flow.policy_ms, flow.decisions = NO_TIME, ALLOWED_BY_DEFAULT
            return True
        flow.policy_ms = (time.monotonic() - flow.started_at) * 1000
        if denial is None:
            if self.hooks.has("flow_start"):
                flow.decisions = [*policy, *ALLOWED_BY_HOOK] if policy else ALLOWED_BY_HOOK
            return True
        flow.tenant.drops[DropReason.DENIED] += 1
        if flow.verdict != "denied":  # else the policy has said it
            flow.verdict = "denied"
            flow.decisions = [*policy, Decision(stage="flow_start", policy="hook", action="deny", reason=denial)]
        return False

    def connected(self, flow: Flow) -> None:
        """The origin has answered, or a session without handshake has its socket."""
        flow.state = "established"
        flow.connected_at = time.monotonic()
        record = self._tell(flow, "connected")
        if self.hooks.has("connected"):
            self.hooks.notify_soon("connected", record or self.look(flow))

    def ended(self, flow: Flow) -> None:
        """The flow's end record: its totals stand. `flow.close` has said why."""
        flow.is_recorded = True
        record = self._tell(flow, "end")
        if self.hooks.has("flow_end"):
            self.hooks.notify_soon("flow_end", record or self.look(flow))

    def removed(self, flow: Flow) -> None:
        """Nothing of the flow is left."""
        self.wheel.disarm(flow)
        flow.tenant.remove(PROTOCOL_NUMBERS[flow.protocol], flow)
        flow.handler = None  # which knows the flow: the collector finds no cycle
        self.flows -= 1

    def look(self, flow: Flow) -> FlowRecord:
        """The flow as it stands."""
        return flow.snapshot(self.node, time.time_ns())

    def send_updates(self, tenants: Iterable[Tenant], every_s: float, now: float) -> None:
        """Tell watchers the totals of live flows that moved, each once in `every_s`, a slice at each call."""
        if now >= self._next_update:
            self._next_update = now + every_s
            self._updates = iter(
                [flow for tenant in tenants for flow in tenant.live()] if self._sinks["update"] else []
            )
        for flow in itertools.islice(self._updates, UPDATES_PER_TICK):
            if flow.state == "established" and flow.totals() != flow.last_totals:
                self._tell(flow, "update")

    def tick(self, now: float) -> bool:
        """Wake the flows whose time has come, up to a slice of them: packets wait meanwhile. Whether more are due."""
        due = self._due
        due.extend(self.wheel.expired(now))
        for _ in range(min(DUE_SLICE, len(due))):
            flow = due.popleft()
            handler: TimedHandler | None = flow.handler
            if handler is None or flow.timer_slot:  # it is gone, or has another time by now
                continue
            try:
                handler.expired(now)
            except Exception:
                log.exception("unexpected error in the timer of %r", flow)
                handler.end("proxy_error")
        return bool(due)

    def watch_idle(self, flow: Flow, timeout_s: float, now: float) -> None:
        """Begin to look, `IDLE_CHECKS` times in each timeout, whether the flow still moves anything."""
        flow.idle_strikes = 0
        flow.last_count = flow.activity()
        self.wheel.arm(flow, now + timeout_s / IDLE_CHECKS)

    def is_idle(self, flow: Flow, timeout_s: float, now: float) -> bool:
        """Whether nothing moved for the whole timeout; if not, look again later."""
        count = flow.activity()
        if count != flow.last_count:
            flow.last_count, flow.idle_strikes = count, 0
        else:
            flow.idle_strikes += 1
        if flow.idle_strikes >= IDLE_CHECKS:
            return True
        self.wheel.arm(flow, now + timeout_s / IDLE_CHECKS)
        return False

    def _tell(self, flow: Flow, event: Event) -> FlowRecord | None:
        if not self._sinks[event]:
            flow.seq += 1
            return None
        record = flow.record(event, self.node, time.time_ns())
        for sink in tuple(self._sinks[event]):
            sink(record)
        return record
