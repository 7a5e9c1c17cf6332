"""Child records on their way from inspectors to the store and to sinks. Open ones are kept here."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from proxy.flow.child import (
    Child,
    ChildPage,
    ChildQuery,
    StoredChild,
    child_id,
    child_predicate,
    decode_child,
    is_genuine,
    is_open,
)
from proxy.flow.query import Window
from proxy.flow.record import FlowRecord

log = logging.getLogger(__name__)

MAX_OPEN = 1_000  # remembered per flow; further ones are recorded when they end

Sink = Callable[[Child, bytes], None]  # called with the record and its JSON


class Children:
    """Collects child records from inspectors. An inspector parses untrusted input, so it is not trusted: records that
    name another flow are rejected."""

    def __init__(self, submit: Callable[[Child], None]) -> None:
        """`submit` gets each child that has ended."""
        self._submit = submit
        self._sinks: list[Sink] = []
        self._open: dict[str, dict[str, Child]] = {}  # by flow id and child id
        self._tenants: dict[str, str] = {}  # tenants of the live flows that have children, by flow id
        self.rejected = 0

    def subscribe(self, sink: Sink) -> None:
        """`sink` gets each child that has ended as well."""
        self._sinks.append(sink)

    def add(self, flow_id: str, tenant: str, name: str, data: bytes) -> None:
        """Add a child record of this flow from an inspector: JSON of the structure `name`."""
        try:
            child = decode_child(name, data)
        except (ValueError, msgspec.DecodeError) as error:
            self._reject(flow_id, str(error))
            return
        if not is_genuine(child, flow_id, tenant):
            self._reject(flow_id, "it names another flow")
            return
        self._tenants.setdefault(flow_id, tenant)
        open_ = self._open.get(flow_id)
        if is_open(child):
            open_ = self._open.setdefault(flow_id, {}) if open_ is None else open_
            if len(open_) < MAX_OPEN or child_id(child) in open_:
                open_[child_id(child)] = child
            return
        if open_ is not None:
            open_.pop(child_id(child), None)
        self._ended(child, data)

    def flow_ended(self, record: FlowRecord) -> None:
        """Close the children of a flow that has ended, which were still open."""
        self._tenants.pop(record.flow_id, None)
        for child in self._open.pop(record.flow_id, {}).values():
            duration_ms = max(child.duration_ms, (record.end or 0) / 1e6 - child.start / 1e6)  # type: ignore[union-attr]  # files are never open
            ended = msgspec.structs.replace(child, is_open=False, duration_ms=duration_ms)
            self._ended(ended, msgspec.json.encode(ended))

    def open(self, query: ChildQuery) -> list[Child]:
        """The open children that match, latest start first."""
        matches = child_predicate(query)
        matching = [child for children in self._open.values() for child in children.values() if matches(child)]
        return sorted(matching, key=lambda child: child.start, reverse=True)  # type: ignore[union-attr]

    async def list_children(self, query: ChildQuery, stored: Callable[[ChildQuery], Awaitable[ChildPage]]) -> ChildPage:
        """The open children that match, and then the `stored` ones; one that ends meanwhile comes once, as it ended."""
        open_ = [] if query.scope == "past" or query.before is not None else self.open(query)
        page = ChildPage([], Window(query.since, query.until or time.time_ns(), None), 0, truncated=False)
        if query.scope != "live":
            page = await stored(query)
        ended = {child_id(child.record) for child in page.children}
        matching = [StoredChild(None, child) for child in open_ if child_id(child) not in ended]
        children = [*matching, *page.children]
        truncated = page.truncated or len(children) > query.limit
        return msgspec.structs.replace(page, children=children[: query.limit], truncated=truncated)

    def open_of(self, flow_id: str) -> list[Child]:
        """The open children of one flow."""
        return list(self._open.get(flow_id, {}).values())

    def flows_with_children(self, tenant: str | None) -> Iterable[str]:
        """The ids of the live flows that have children."""
        return [flow_id for flow_id, owner in self._tenants.items() if tenant in (None, owner)]

    def _ended(self, child: Child, data: bytes) -> None:
        self._submit(child)
        for sink in self._sinks:
            sink(child, data)

    def _reject(self, flow_id: str, why: str) -> None:
        self.rejected += 1
        if self.rejected == 1:
            log.error("a child record of flow %s from an inspector is rejected: %s", flow_id, why)
