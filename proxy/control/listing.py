"""Live and past flows as one answer: each flow once, sorted and limited, encoded without blocking the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import msgspec

from proxy.control.schema import SCHEMA, ChildKind, ChildPage, ProxyView
from proxy.flow.query import SORT_KEYS, FlowQuery, Page, StoredFlow, Window, predicate, sort_flows
from proxy.flow.record import FlowRecord

_CHUNK_BYTES = 64 << 10
_CHILDREN_PER_CHUNK = 100
CHILD_KINDS: dict[str, ChildKind] = {"requests": "request", "channels": "channel", "files": "file"}
_encode = msgspec.json.Encoder().encode


async def list_flows(view: ProxyView, query: FlowQuery) -> Page:
    """The flows selected by `query`. A flow that ends meanwhile appears once, as ended."""
    found: dict[str, StoredFlow] = {}
    page = Page([], Window(query.since, query.until or time.time_ns(), None), lost=0, truncated=False)
    live = await view.resolve_request_filters(query) if query.scope != "past" else None
    if live is query and query.scope == "all":
        found, page = await _live_and_past(view, query)
    else:
        # live ones first, as a flow that ends after that is in the store by the time of that query
        if live is not None:
            found = await _live(view, live)
        if query.scope != "live":
            page = await view.past_flows(query)
            found |= {flow.flow_id: flow for flow in page.flows}
    flows = sort_flows(found.values(), query)
    return Page(flows[: query.limit], page.window, page.lost, page.truncated or len(flows) > query.limit)


async def _live_and_past(view: ProxyView, query: FlowQuery) -> tuple[dict[str, StoredFlow], Page]:
    """Live and ended flows, queried in parallel, since SQLite reads the store in a thread. Flows that end meanwhile may
    be in neither, so they are collected too."""
    matches, key = predicate(query), SORT_KEYS[query.sort]
    ended: list[StoredFlow] = []

    def add_ended(record: FlowRecord) -> None:
        if matches(record):
            ended.append(StoredFlow(key(record), record.flow_id, _encode(record)))

    unsubscribe = view.watch_ends(query.tenant, add_ended)
    past = asyncio.ensure_future(view.past_flows(query))
    try:
        found = await _live(view, query)
        page = await past
    finally:
        past.cancel()
        unsubscribe()
    return found | {flow.flow_id: flow for flow in (*page.flows, *ended)}, page


async def _live(view: ProxyView, query: FlowQuery) -> dict[str, StoredFlow]:
    matches, key = predicate(query), SORT_KEYS[query.sort]
    records = await view.live_flows(query)
    return {each.flow_id: StoredFlow(key(each), each.flow_id, _encode(each)) for each in records if matches(each)}


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


async def encode_children(plural: str, page: ChildPage) -> AsyncGenerator[bytes, None]:
    """As `encode_page`, for requests, channels or files; `next` is where the next page begins."""
    children = page.children
    yield b'{"schema":%b,"kind":%b,"items":[' % (_encode(SCHEMA), _encode(plural))
    for at in range(0, len(children), _CHILDREN_PER_CHUNK):
        lines = b",\n".join(_encode(child.record) for child in children[at : at + _CHILDREN_PER_CHUNK])
        yield b",\n" + lines if at else lines
        await asyncio.sleep(0)
    rest = (page.window, page.lost, page.truncated, next_page(page))
    yield b'],"window":%b,"lost":%b,"truncated":%b,"next":%b}\n' % tuple(map(_encode, rest))


def next_page(page: ChildPage) -> int | None:
    """The value of `before` for the next page, or None if this is the last."""
    numbers = [child.number for child in page.children if child.number is not None]
    return numbers[-1] if page.truncated and numbers else None
