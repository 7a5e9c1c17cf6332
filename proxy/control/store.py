"""The flow log of a proxy that is not running: queried like the proxy itself, and never modified."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from proxy.control.client import ControlError
from proxy.control.exporting import PAGE
from proxy.control.listing import CHILD_KINDS, next_page
from proxy.control.schema import ChildrenAnswer, Exported, FlowRecord, FlowsAnswer, GroupsAnswer
from proxy.errors import ProxyError
from proxy.flow.childparameters import parse_children
from proxy.flow.parameters import EXPORT_PARAMETERS, LIST_PARAMETERS, TENANT, QueryError, parse_groups, parse_query
from proxy.flow.query import FlowQuery, Page, Window
from proxy.telemetry import flowdb
from proxy.telemetry.childsql import read_children
from proxy.telemetry.flowgroups import read_groups
from proxy.telemetry.flowread import read_page
from proxy.telemetry.lost_records import LostRecords

Pairs = Iterable[tuple[str, str]]
_decode = msgspec.json.Decoder(FlowRecord).decode


class RecordedFlows:
    """The flow log at `path`. Raises ControlError if it cannot be read, or a query is invalid (400, 404)."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)

    def flows(self, pairs: Pairs) -> FlowsAnswer:
        """The ended flows selected by the parameters (`proxy.control.schema.LIST_PARAMETERS`)."""
        page = self._page(_query(pairs, LIST_PARAMETERS))
        items = [_decode(flow.record) for flow in page.flows]
        return FlowsAnswer(items=items, window=page.window, lost=page.lost, truncated=page.truncated)

    def groups(self, pairs: Pairs) -> GroupsAnswer:
        """Ended flows aggregated by the fields of the parameter `by`."""
        with _query_errors(), self._connection() as connection:
            query = parse_groups(pairs, datetime.now().astimezone())
            page = read_groups(connection, query, {}, LostRecords(flowdb.load_lost_counts(connection)))
        return GroupsAnswer(items=page.groups, window=page.window, lost=page.lost, truncated=page.truncated)

    def children(self, plural: str, pairs: Pairs) -> ChildrenAnswer:
        """The `requests`, `channels` or `files` selected by the parameters. None is open any more."""
        with _query_errors(), self._connection() as connection:
            query = parse_children(CHILD_KINDS[plural], pairs, datetime.now().astimezone())
            page = read_children(connection, query, LostRecords(flowdb.load_lost_counts(connection)))
        return ChildrenAnswer(
            kind=plural,
            items=[child.record for child in page.children],
            window=page.window,
            lost=page.lost,
            truncated=page.truncated,
            next=next_page(page),
        )

    @contextlib.contextmanager
    def export(self, pairs: Pairs) -> Iterator[Iterator[FlowRecord | Exported]]:
        """All ended flows selected by the parameters, then an `Exported`."""
        query = msgspec.structs.replace(_query(pairs, EXPORT_PARAMETERS), sort="start", descending=False, limit=PAGE)
        yield self._pages(query, self.tenants() if query.tenant is None else [query.tenant])

    def _pages(self, query: FlowQuery, tenants: list[str]) -> Iterator[FlowRecord | Exported]:
        count = lost = 0
        window = Window(query.since, query.until or time.time_ns(), None)
        for tenant in tenants:
            page_query, is_more = msgspec.structs.replace(query, tenant=tenant), True
            while is_more:
                page = self._page(page_query)
                yield from (_decode(flow.record) for flow in page.flows)
                count, window = count + len(page.flows), page.window
                is_more = page.truncated and bool(page.flows)
                if is_more:
                    last = page.flows[-1]
                    page_query = msgspec.structs.replace(page_query, after=(last.key, last.flow_id))
            lost += page.lost
        yield Exported(exported=count, window=window, lost=lost)

    def flow(self, flow_id: str, pairs: Pairs) -> FlowRecord:
        """One ended flow. `pairs` name its tenant."""
        query = msgspec.structs.replace(_query(pairs, tuple(TENANT)), flow_id=(flow_id,), limit=1)
        for flow in self._page(query).flows:
            return _decode(flow.record)
        owner = "no tenant has a" if query.tenant is None else f"tenant {query.tenant} has no"
        raise ControlError(f"{owner} flow {flow_id} on record", 404)

    def tenants(self) -> list[str]:
        """The tenants that have records."""
        with self._connection() as connection:
            return flowdb.tenants(connection)

    def _page(self, query: FlowQuery) -> Page:
        with self._connection() as connection:
            return read_page(connection, query, LostRecords(flowdb.load_lost_counts(connection)))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(flowdb.open_offline(self.path)) as connection:
                yield connection
        except (sqlite3.Error, msgspec.DecodeError, ProxyError) as error:
            raise ControlError(f"cannot read the flow log {self.path}: {error}") from error


def _query(pairs: Pairs, allowed: tuple[str, ...]) -> FlowQuery:
    with _query_errors():
        return parse_query(pairs, datetime.now().astimezone(), allowed)


@contextlib.contextmanager
def _query_errors() -> Iterator[None]:
    try:
        yield
    except QueryError as error:
        raise ControlError(str(error), 400) from None
