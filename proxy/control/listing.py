"""Live and past flows as one answer: each flow once, sorted and limited, encoded without blocking the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import msgspec

from proxy.control.schema import SCHEMA, ChildKind, ChildPage, ProxyView
from proxy.flow.query import SORT_KEYS, FlowQuery, Page, StoredFlow, Window, predicate, sort_flows

_CHUNK_BYTES = 64 << 10
_CHILDREN_PER_CHUNK = 100
CHILD_KINDS: dict[str, ChildKind] = {"requests": "request", "channels": "channel", "files": "file"}
_encode = msgspec.json.Encoder().encode


async def list_flows(view: ProxyView, query: FlowQuery) -> Page:
    """What `query` selects. A flow that ends meanwhile comes once, as it ended."""
    # The live ones first: whatever ends after that is also in the store when the store is asked.
    found: dict[str, StoredFlow] = {}
    if query.scope != "past" and (live := await view.narrowed(query)) is not None:
        wanted, key = predicate(live), SORT_KEYS[query.sort]
        found = {r.flow_id: StoredFlow(key(r), r.flow_id, _encode(r)) for r in await view.live_flows(live) if wanted(r)}
    page = Page([], Window(query.since, query.until or time.time_ns(), None), lost=0, truncated=False)
    if query.scope != "live":
        page = await view.past_flows(query)
    found |= {flow.flow_id: flow for flow in page.flows}
    flows = sort_flows(found.values(), query)
    return Page(flows[: query.limit], page.window, page.lost, page.truncated or len(flows) > query.limit)


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
    """The same of a page of requests, channels or files; `next` is where the next page begins."""
    children = page.children
    yield b'{"schema":%b,"kind":%b,"items":[' % (_encode(SCHEMA), _encode(plural))
    for at in range(0, len(children), _CHILDREN_PER_CHUNK):
        lines = b",\n".join(_encode(child.record) for child in children[at : at + _CHILDREN_PER_CHUNK])
        yield b",\n" + lines if at else lines
        await asyncio.sleep(0)
    rest = (page.window, page.lost, page.truncated, next_page(page))
    yield b'],"window":%b,"lost":%b,"truncated":%b,"next":%b}\n' % tuple(map(_encode, rest))


def next_page(page: ChildPage) -> int | None:
    """What `before` has to be to go on after this page; None when nothing follows."""
    numbers = [child.number for child in page.children if child.number is not None]
    return numbers[-1] if page.truncated and numbers else None
