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

MOST_OPEN = 1_000  # remembered per flow; further ones are recorded when they end

Sink = Callable[[Child, bytes], None]  # called with the record and its JSON


class Children:
    """Takes child records from inspectors. An inspector parses untrusted input, so it is not trusted: records that name
    another flow are ignored."""

    def __init__(self, submit: Callable[[Child], None]) -> None:
        """`submit` gets each child that has ended."""
        self._submit = submit
        self._sinks: list[Sink] = []
        self._open: dict[str, dict[str, Child]] = {}  # by flow id and child id
        self._tenants: dict[str, str] = {}  # tenants of the live flows that have children, by flow id
        self.refused = 0

    def subscribe(self, sink: Sink) -> None:
        """`sink` gets each child that has ended as well."""
        self._sinks.append(sink)

    def take(self, flow_id: str, tenant: str, name: str, data: bytes) -> None:
        """Take a child record of this flow from an inspector: JSON of the structure `name`."""
        try:
            child = decode_child(name, data)
        except (ValueError, msgspec.DecodeError) as error:
            self._refuse(flow_id, str(error))
            return
        if not is_genuine(child, flow_id, tenant):
            self._refuse(flow_id, "it names another flow")
            return
        self._tenants.setdefault(flow_id, tenant)
        open_ = self._open.get(flow_id)
        if is_open(child):
            open_ = self._open.setdefault(flow_id, {}) if open_ is None else open_
            if len(open_) < MOST_OPEN or child_id(child) in open_:
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
        found = [child for children in self._open.values() for child in children.values() if matches(child)]
        return sorted(found, key=lambda child: child.start, reverse=True)  # type: ignore[union-attr]

    async def listed(self, query: ChildQuery, stored: Callable[[ChildQuery], Awaitable[ChildPage]]) -> ChildPage:
        """The open children that match, and then the `stored` ones; one that ends meanwhile comes once, as it ended."""
        open_ = [] if query.scope == "past" or query.before is not None else self.open(query)
        page = ChildPage([], Window(query.since, query.until or time.time_ns(), None), 0, truncated=False)
        if query.scope != "live":
            page = await stored(query)
        ended = {child_id(child.record) for child in page.children}
        found = [StoredChild(None, child) for child in open_ if child_id(child) not in ended]
        children = [*found, *page.children]
        truncated = page.truncated or len(children) > query.limit
        return msgspec.structs.replace(page, children=children[: query.limit], truncated=truncated)

    def open_of(self, flow_id: str) -> list[Child]:
        """The open children of one flow."""
        return list(self._open.get(flow_id, {}).values())

    def living(self, tenant: str | None) -> Iterable[str]:
        """The live flows that have children."""
        return [flow_id for flow_id, whose in self._tenants.items() if tenant in (None, whose)]

    def _ended(self, child: Child, data: bytes) -> None:
        self._submit(child)
        for sink in self._sinks:
            sink(child, data)

    def _refuse(self, flow_id: str, why: str) -> None:
        self.refused += 1
        if self.refused == 1:
            log.error("an inspector told of a child of flow %s what cannot be: %s", flow_id, why)
