"""Live and past flows as one answer: each flow once, sorted, limited, and encoded without holding the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable

import msgspec

from proxy.control.schema import SCHEMA, ProxyView
from proxy.flow.query import SORT_KEYS, FlowQuery, Page, StoredFlow, Window, predicate, sort_flows
from proxy.flow.record import FlowRecord

SLICE_S = 0.002  # how long packets may wait for us
_CHUNK_BYTES = 64 << 10
_SPARE_FLOWS = 1000
_encode = msgspec.json.Encoder().encode


async def list_flows(view: ProxyView, query: FlowQuery) -> Page:
    """What `query` selects. A flow that ends meanwhile comes once, as it ended."""
    # The live ones first: whatever ends after that is also in the store when the store is asked.
    found = _Best(query)
    if query.scope != "past":
        await _gather(view.live_flows(query.tenant), found)
    page = Page([], Window(query.since, query.until or time.time_ns(), None), lost=0, truncated=False)
    if query.scope != "live":
        page = await view.past_flows(query)
    for flow in page.flows:
        found.add(flow)
    flows = found.sorted()
    return Page(flows, page.window, page.lost, page.truncated or found.truncated)


class _Best:
    """The flows that an answer will hold, and few more: twenty thousand kept at once cost a pause of 50 ms to free."""

    def __init__(self, query: FlowQuery) -> None:
        self.query, self.truncated = query, False
        self._flows: dict[str, StoredFlow] = {}

    def add(self, flow: StoredFlow) -> None:
        """Take a flow; the last one of its name counts."""
        self._flows[flow.flow_id] = flow
        if len(self._flows) > 2 * self.query.limit + _SPARE_FLOWS:
            self._flows = {flow.flow_id: flow for flow in self.sorted()}

    def sorted(self) -> list[StoredFlow]:
        """The best of what was taken, in order, at most `limit`."""
        self.truncated = self.truncated or len(self._flows) > self.query.limit
        return sort_flows(self._flows.values(), self.query)[: self.query.limit]


async def _gather(records: Iterable[FlowRecord], found: _Best) -> None:
    wanted, key = predicate(found.query), SORT_KEYS[found.query.sort]
    pause_at = time.monotonic() + SLICE_S
    for record in records:
        if wanted(record):
            found.add(StoredFlow(key(record), record.flow_id, _encode(record)))
        if time.monotonic() > pause_at:
            await asyncio.sleep(0)
            pause_at = time.monotonic() + SLICE_S


async def encode_page(kind: str, page: Page) -> AsyncGenerator[bytes, None]:
    """The JSON envelope of a page, in chunks of some 64 KB."""
    parts: list[bytes] = [b'{"schema":%b,"kind":%b,"items":[' % (_encode(SCHEMA), _encode(kind))]
    size = 0
    for index, flow in enumerate(page.flows):
        parts.append(b",\n" + flow.record if index else flow.record)
        size += len(flow.record)
        if size > _CHUNK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
            await asyncio.sleep(0)
    rest = (_encode(page.window), _encode(page.lost), _encode(page.truncated))
    parts.append(b'],"window":%b,"lost":%b,"truncated":%b}\n' % rest)
    yield b"".join(parts)
