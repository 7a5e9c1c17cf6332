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
_encode = msgspec.json.Encoder().encode


async def list_flows(view: ProxyView, query: FlowQuery) -> Page:
    """What `query` selects. A flow that ends meanwhile comes once, as it ended."""
    # The live ones first: whatever ends after that is also in the store when the store is asked.
    found = {} if query.scope == "past" else await _live(view.live_flows(query.tenant), query)
    until = time.time_ns() if query.until is None else query.until
    page = Page([], Window(query.since, until, None), lost=0, truncated=False)
    if query.scope != "live":
        page = await view.past_flows(query)
    for flow in page.flows:
        found[flow.flow_id] = flow
    flows = sort_flows(found.values(), query)
    truncated = page.truncated or len(flows) > query.limit
    return Page(flows[: query.limit], page.window, page.lost, truncated)


async def _live(records: Iterable[FlowRecord], query: FlowQuery) -> dict[str, StoredFlow]:
    wanted, key = predicate(query), SORT_KEYS[query.sort]
    found: dict[str, StoredFlow] = {}
    pause_at = time.monotonic() + SLICE_S
    for record in records:
        if wanted(record):
            found[record.flow_id] = StoredFlow(key(record), record.flow_id, record)
        if time.monotonic() > pause_at:
            await asyncio.sleep(0)
            pause_at = time.monotonic() + SLICE_S
    return found


async def encode_page(kind: str, page: Page) -> AsyncGenerator[bytes, None]:
    """The JSON envelope of a page, in chunks of some 64 KB."""
    parts: list[bytes] = [b'{"schema":%b,"kind":%b,"items":[' % (_encode(SCHEMA), _encode(kind))]
    size = 0
    for index, flow in enumerate(page.flows):
        record = flow.record if isinstance(flow.record, bytes) else _encode(flow.record)
        parts.append(b",\n" + record if index else record)
        size += len(record)
        if size > _CHUNK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
            await asyncio.sleep(0)
    rest = (_encode(page.window), _encode(page.lost), _encode(page.truncated))
    parts.append(b'],"window":%b,"lost":%b,"truncated":%b}\n' % rest)
    yield b"".join(parts)
