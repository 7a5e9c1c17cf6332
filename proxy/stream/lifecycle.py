"""The life of a flow: opened, connected, updated and ended, each announced once; and the timers that end it."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from proxy.flow.context import FlowContext
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.flow.record import CloseReason, Decision, Event, FlowRecord, Totals
from proxy.flow.tenant import Carrier, Endpoint, Tenant
from proxy.flow.timers import Wheel
from proxy.hooks import HookRunner
from proxy.stream.admission import Admission
from proxy.stream.descriptors import Descriptors

log = logging.getLogger(__name__)

Sink = Callable[[FlowRecord], None]

EVENTS: tuple[Event, ...] = ("start", "connected", "update", "end")
DUE_SLICE = 500  # flows whose time has come: 1 to 5 ms
UPDATES_PER_TICK = 500  # records of live flows: about 5 ms
IDLE_CHECKS = 4  # readings of a flow's counters in each idle timeout: it ends after 1 to 1.25 times the timeout
TAKEN_BACK = [Decision(stage="flow_start", policy="default", action="allow", reason="taken back from a killed proxy")]


class TimedHandler(Protocol):
    """What a flow's timer wakes."""

    def expired(self, now: float) -> None: ...

    def end(self, reason: CloseReason) -> None: ...

    def replaced(self) -> None:
        """A later flow has the same addresses and ports: send nothing more to the client."""
        ...


class Lifecycle:
    """Announces the start, connection and end of every flow to hooks and listeners."""

    def __init__(self, node: str, hooks: HookRunner, descriptors: Descriptors) -> None:
        self.node = node
        self.hooks = hooks
        self.wheel: Wheel[Flow] = Wheel()
        self.flows = 0
        self.descriptors = descriptors
        self.admission = Admission(hooks, self.show)
        self._sinks: dict[Event, list[Sink]] = {event: [] for event in EVENTS}
        self._due: deque[Flow] = deque()
        self._updates: Iterator[Flow] = iter(())
        self._next_update = 0.0

    def subscribe(self, sink: Sink, *events: Event) -> Callable[[], None]:
        """Call `sink` with every record of these events (all by default). Call the result to unsubscribe."""
        wanted = [self._sinks[event] for event in events or EVENTS]
        for sinks in wanted:
            sinks.append(sink)

        def unsubscribe() -> None:
            for sinks in wanted:
                sinks.remove(sink)

        return unsubscribe

    def begin(self, flow: Flow, handler: TimedHandler, start: Callable[[], None]) -> None:
        """Let `handler` have the flow, and call `start`. A flow that is new enters its tenant's table."""
        flow.handler = handler
        if not flow.seq:  # else it was held until it was decided
            self._replace_occupants(flow)
            flow.tenant.add(PROTOCOL_NUMBERS[flow.protocol], flow)
            self.flows += 1
            self._tell(flow, "start")
        try:
            start()
        except Exception:
            log.exception("unexpected error at the start of %r", flow)
            handler.end("proxy_error")

    def move(self, flow: Flow, egress: Carrier | None, redirect: Endpoint | None) -> None:
        """Give a flow that is in the tables another next hop, or another destination."""
        flow.tenant.move(PROTOCOL_NUMBERS[flow.protocol], flow, egress, redirect)

    def _replace_occupants(self, flow: Flow) -> None:
        for earlier in flow.tenant.occupants(PROTOCOL_NUMBERS[flow.protocol], flow):
            earlier.handler.replaced()  # its ports are used again before its last packets faded
            if not earlier.is_recorded:
                self.ended(earlier)

    def resume(self, flow: Flow, handler: TimedHandler) -> None:
        """Enter a flow that an earlier proxy process began and decided."""
        flow.handler = handler
        flow.decisions = TAKEN_BACK
        flow.tenant.add(PROTOCOL_NUMBERS[flow.protocol], flow)
        self.flows += 1

    def connected(self, flow: Flow) -> None:
        """The origin has answered, or a session without a handshake has its socket."""
        flow.state = "established"
        # without a handshake there is nothing to wait for: the float that is there, 24 bytes of each flow
        flow.connected_at = time.monotonic() if flow.protocol == "tcp" else flow.started_at
        self._tell(flow, "connected")
        if self.hooks.has("connected"):
            self.hooks.notify_soon("connected", self.show(flow))

    def connect_failed(self, flow: Flow) -> None:
        """The origin refused, was unreachable or silent."""
        if self.hooks.has("connect_failed"):
            self.hooks.notify_soon("connect_failed", self.show(flow))

    def detected(self, flow: Flow) -> None:
        """The first bytes have said what is spoken: `flow.detected_protocol`."""
        if self.hooks.has("protocol_detected"):
            self.hooks.notify_soon("protocol_detected", self.show(flow))

    def ended(self, flow: Flow) -> None:
        """Publish the flow's end record: its totals are final, and `flow.close` was called with the reason."""
        flow.is_recorded = True
        self._tell(flow, "end")
        if self.hooks.has("flow_end"):
            self.hooks.notify_soon("flow_end", self.show(flow))

    def removed(self, flow: Flow) -> None:
        """Remove the flow from the tables: nothing of it is left."""
        self.wheel.disarm(flow)
        self.admission.forget(flow)
        flow.tenant.remove(PROTOCOL_NUMBERS[flow.protocol], flow)
        flow.handler = None  # which knows the flow: the collector finds no cycle
        self.flows -= 1

    def look(self, flow: Flow) -> FlowRecord:
        """The flow's current record and extension."""
        return flow.snapshot(self.node, time.time_ns())

    def show(self, flow: Flow) -> FlowContext[Any]:
        """The same for the application."""
        return flow.show(self.node, time.time_ns())

    def send_updates(self, tenants: Iterable[Tenant], every_s: float, now: float) -> None:
        """Publish the totals of live flows that moved something, each once in `every_s` seconds, a slice at
        each call."""
        if now >= self._next_update:
            self._next_update = now + every_s
            is_heard = self._sinks["update"] or self.hooks.has("flow_update")
            slices = itertools.chain.from_iterable(tenant.slices() for tenant in tenants)
            self._updates = itertools.chain.from_iterable(slices if is_heard else ())
        for flow in itertools.islice(self._updates, UPDATES_PER_TICK):
            if flow.state == "established" and flow.totals() != flow.last_totals:
                self._updated(flow)

    def _updated(self, flow: Flow) -> None:
        if self.hooks.has("flow_update"):
            context = self.show(flow)
            context.delta = context.total.minus(flow.last_totals or Totals())
            self.hooks.notify_soon("flow_update", context)
        self._tell(flow, "update")
        flow.last_totals = flow.totals()

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
        """Start to check, `IDLE_CHECKS` times in each timeout, whether the flow still moves anything."""
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

    def _tell(self, flow: Flow, event: Event) -> None:
        if not self._sinks[event]:
            flow.seq += 1
            return
        record = flow.record(event, self.node, time.time_ns())
        for sink in tuple(self._sinks[event]):
            sink(record)
