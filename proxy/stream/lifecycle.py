"""The life of a flow: opened, connected, updated and ended, each announced once; and the timers that end it."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from proxy.flow.context import FlowContext
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.flow.handler import FlowHandler
from proxy.flow.record import Decision, Event, FlowRecord, Totals
from proxy.flow.tenant import Carrier, Endpoint, Tenant
from proxy.flow.timers import Wheel
from proxy.hooks import HookRunner
from proxy.stream.admission import Admission
from proxy.stream.descriptors import Descriptors

log = logging.getLogger(__name__)

Sink = Callable[[FlowRecord], None]

EVENTS: tuple[Event, ...] = ("start", "connected", "update", "end")
DUE_SLICE = 500  # due flows handled per call: 1 to 5 ms
UPDATES_PER_TICK = 500  # live flows examined per call: about 5 ms
IDLE_CHECKS = 4  # readings of a flow's counters per idle timeout: the flow ends after 1 to 1.25 times the timeout
RESUMED = [Decision(stage="flow_start", policy="default", action="allow", reason="taken back from a killed proxy")]


class Lifecycle:
    """Announces the start, connection and end of every flow to hooks and listeners."""

    def __init__(self, node: str, hooks: HookRunner, descriptors: Descriptors) -> None:
        self.node = node
        self.hooks = hooks
        self.wheel: Wheel[Flow] = Wheel()
        self.flows = 0
        self.descriptors = descriptors
        self.admission = Admission(hooks, self.hook_context)
        self._sinks: dict[Event, list[Sink]] = {event: [] for event in EVENTS}
        self._due: deque[Flow] = deque()
        self._updates: Iterator[Flow] = iter(())
        self._next_update = 0.0

    def subscribe(self, sink: Sink, *events: Event) -> Callable[[], None]:
        """Call `sink` with every record of these events (all by default). Returns a function that unsubscribes."""
        wanted = [self._sinks[event] for event in events or EVENTS]
        for sinks in wanted:
            sinks.append(sink)

        def unsubscribe() -> None:
            for sinks in wanted:
                sinks.remove(sink)

        return unsubscribe

    def begin(self, flow: Flow, handler: FlowHandler, start: Callable[[], None]) -> None:
        """Make `handler` the flow's handler, and call `start`. A new flow is entered in its tenant's table."""
        flow.handler = handler
        if not flow.seq:  # otherwise it was entered when it was held
            self._replace_occupants(flow)
            flow.tenant.add(PROTOCOL_NUMBERS[flow.protocol], flow)
            self.flows += 1
            self._publish(flow, "start")
        try:
            start()
        except Exception:
            log.exception("unexpected error at the start of %r", flow)
            handler.end("proxy_error")

    def move(self, flow: Flow, egress: Carrier | None, redirect: Endpoint | None) -> None:
        """Change the next hop, or the destination, of a flow in the tables."""
        flow.tenant.move(PROTOCOL_NUMBERS[flow.protocol], flow, egress, redirect)

    def _replace_occupants(self, flow: Flow) -> None:
        for earlier in flow.tenant.occupants(PROTOCOL_NUMBERS[flow.protocol], flow):
            if earlier.handler is not None:
                earlier.handler.replaced()  # its ports are reused before its last packets have passed
            if not earlier.is_recorded:
                self.ended(earlier)

    def resume(self, flow: Flow, handler: FlowHandler) -> None:
        """Enter a flow that an earlier proxy process opened and allowed."""
        flow.handler = handler
        flow.decisions = RESUMED
        flow.tenant.add(PROTOCOL_NUMBERS[flow.protocol], flow)
        self.flows += 1

    def connected(self, flow: Flow) -> None:
        """Announce that the origin has answered, or that a session without a handshake has its socket."""
        flow.state = "established"
        # without a handshake the time is that of the start: the same float object saves 24 bytes per flow
        flow.connected_at = time.monotonic() if flow.protocol == "tcp" else flow.started_at
        self._publish(flow, "connected")
        if self.hooks.has("connected"):
            self.hooks.notify_soon("connected", self.hook_context(flow))

    def connect_failed(self, flow: Flow) -> None:
        """Announce that the origin refused, was unreachable, or did not answer."""
        if self.hooks.has("connect_failed"):
            self.hooks.notify_soon("connect_failed", self.hook_context(flow))

    def detected(self, flow: Flow) -> None:
        """Announce the protocol found in the first bytes, `flow.detected_protocol`."""
        if self.hooks.has("protocol_detected"):
            self.hooks.notify_soon("protocol_detected", self.hook_context(flow))

    def ended(self, flow: Flow) -> None:
        """Publish the flow's end record. Its totals are final, and `flow.close` was called with the reason."""
        flow.is_recorded = True
        self._publish(flow, "end")
        if self.hooks.has("flow_end"):
            self.hooks.notify_soon("flow_end", self.hook_context(flow))

    def removed(self, flow: Flow) -> None:
        """Remove the flow from all tables."""
        self.wheel.disarm(flow)
        self.admission.forget(flow)
        flow.tenant.remove(PROTOCOL_NUMBERS[flow.protocol], flow)
        flow.handler = None  # breaks the reference cycle between flow and handler
        self.flows -= 1

    def snapshot(self, flow: Flow) -> FlowRecord:
        """The flow's current record."""
        return flow.snapshot(self.node, time.time_ns())

    def hook_context(self, flow: Flow) -> FlowContext[Any]:
        """The flow's current record and extension, for the application."""
        return flow.hook_context(self.node, time.time_ns())

    def send_updates(self, tenants: Iterable[Tenant], every_s: float, now: float) -> None:
        """Publish totals of live flows that moved something, once per `every_s` seconds for each, a slice per call."""
        if now >= self._next_update:
            self._next_update = now + every_s
            is_wanted = self._sinks["update"] or self.hooks.has("flow_update")
            slices = itertools.chain.from_iterable(tenant.slices() for tenant in tenants)
            self._updates = itertools.chain.from_iterable(slices if is_wanted else ())
        for flow in itertools.islice(self._updates, UPDATES_PER_TICK):
            if flow.state == "established" and flow.totals() != flow.last_totals:
                self._updated(flow)

    def _updated(self, flow: Flow) -> None:
        if self.hooks.has("flow_update"):
            context = self.hook_context(flow)
            context.delta = context.total.minus(flow.last_totals or Totals())
            self.hooks.notify_soon("flow_update", context)
        self._publish(flow, "update")
        flow.last_totals = flow.totals()

    def tick(self, now: float) -> bool:
        """Call the handlers of due flows, at most a slice, as packets wait meanwhile. Returns whether more are due."""
        due = self._due
        due.extend(self.wheel.expired(now))
        for _ in range(min(DUE_SLICE, len(due))):
            flow = due.popleft()
            handler = flow.handler
            if handler is None or flow.timer_slot:  # it has ended, or its timer was set again
                continue
            try:
                handler.expired(now)
            except Exception:
                log.exception("unexpected error in the timer of %r", flow)
                handler.end("proxy_error")
        return bool(due)

    def watch_idle(self, flow: Flow, timeout_s: float, now: float) -> None:
        """Start idle checks: the flow's counters are read `IDLE_CHECKS` times per timeout."""
        flow.idle_checks = 0
        flow.last_count = flow.activity()
        self.wheel.arm(flow, now + timeout_s / IDLE_CHECKS)

    def is_idle(self, flow: Flow, timeout_s: float, now: float) -> bool:
        """Whether nothing moved for the whole timeout. If something did, arm the timer for the next check."""
        count = flow.activity()
        if count != flow.last_count:
            flow.last_count, flow.idle_checks = count, 0
        else:
            flow.idle_checks += 1
        if flow.idle_checks >= IDLE_CHECKS:
            return True
        self.wheel.arm(flow, now + timeout_s / IDLE_CHECKS)
        return False

    def _publish(self, flow: Flow, event: Event) -> None:
        if not self._sinks[event]:
            flow.seq += 1
            return
        record = flow.record(event, self.node, time.time_ns())
        for sink in tuple(self._sinks[event]):
            sink(record)
