"""All flows that match a query, as JSON lines in constant memory: live flows, then past ones page by page."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import msgspec

from proxy.control.schema import Exported, ProxyView
from proxy.flow.query import FlowQuery, Window, predicate

PAGE = 500  # past flows in memory at once
_CHUNK_BYTES = 64 << 10
_encode = msgspec.json.Encoder().encode


async def export(view: ProxyView, query: FlowQuery) -> AsyncGenerator[bytes, None]:
    """JSON lines in chunks; the last line is an `Exported`. A flow that ends during the export appears once.

    The client sets the pace: nothing is read from the store before it has taken the previous chunk.
    """
    count, lost, oldest = 0, 0, None
    until = query.until or time.time_ns()
    exported_ids: set[str] = set()  # flows already exported as live ones
    chunk = bytearray()
    if query.scope != "past" and (live := await view.resolve_request_filters(query)) is not None:
        matches = predicate(live)
        async for record in view.all_live_flows(live):
            if matches(record):
                exported_ids.add(record.flow_id)
                chunk += _encode(record) + b"\n"
                count += 1
            if len(chunk) > _CHUNK_BYTES:
                yield bytes(chunk)
                chunk.clear()
    if query.scope != "live":
        for tenant in [query.tenant] if query.tenant is not None else await view.recorded_tenants():
            page_query = msgspec.structs.replace(query, tenant=tenant, sort="start", descending=False, limit=PAGE)
            is_more = True
            while is_more:
                page = await view.past_flows(page_query)
                for flow in page.flows:
                    if flow.flow_id not in exported_ids:
                        chunk += flow.record + b"\n"
                        count += 1
                is_more = page.truncated and bool(page.flows)
                if is_more:
                    last = page.flows[-1]
                    page_query = msgspec.structs.replace(page_query, after=(last.key, last.flow_id))
                yield bytes(chunk)
                chunk.clear()
            lost += page.lost
            oldest = min((each for each in (oldest, page.window.oldest) if each is not None), default=None)
    yield bytes(chunk) + _encode(Exported(exported=count, window=Window(query.since, until, oldest), lost=lost)) + b"\n"
