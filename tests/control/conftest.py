"""A control server over a proxy that is made up, on a real Unix socket, with its own event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.control.schema import (
    AuthorityView,
    FlowQuery,
    FlowRecord,
    Page,
    PolicyView,
    RouteInfo,
    Status,
    StoredFlow,
    TenantStatus,
    TunnelInfo,
    Window,
)
from proxy.control.server import ControlServer
from proxy.flow.child import Child, ChildPage, ChildQuery, StoredChild, child_predicate
from proxy.flow.groups import GroupCounter, GroupsPage, GroupsQuery, Ranking
from proxy.flow.query import RECORD_GETTERS, SORT_KEYS, predicate, sort_flows
from proxy.telemetry.flowgroups import display_value
from proxy.telemetry.metrics import render


class FakeProxy:
    """A ProxyView over two lists."""

    def __init__(self) -> None:
        self.tenants = {"acme": TenantStatus(tunnels=1, flows={"tcp": 2}), "globex": TenantStatus()}
        self.live: list[FlowRecord] = []
        self.past: list[FlowRecord] = []
        self.children: list[Child] = []
        self.lost = 0
        self.policy: PolicyView | None = None
        self.authorities: AuthorityView | None = None
        self.ssh: Any = None
        self.open = [
            TunnelInfo(id="t1", onramp="connected", tenant="acme", addresses=["100.96.0.2"], mtu=1280, opened=0)
        ]
        self.table: list[RouteInfo] = []
        self.watchers: dict[Callable[[FlowRecord], None], str | None] = {}
        self.ends_watchers: list[Callable[[FlowRecord], None]] = []
        self.changed = threading.Condition()
        self.before_past: Callable[[], None] = lambda: None

    def status(self) -> Status:
        return Status(node="edge", version="0.1.0", pid=7, started=0, uptime_s=61.0, tunnels=1, tenants=self.tenants)

    def tunnels(self, tenant: str | None) -> list[TunnelInfo]:
        return [tunnel for tunnel in self.open if tenant in (None, tunnel.tenant)]

    async def routes(self, tenant: str | None) -> list[RouteInfo]:
        return [route for route in self.table if tenant in (None, route.tenant)]

    async def resolve_request_filters(self, query: FlowQuery) -> FlowQuery | None:
        return query

    async def list_children(self, query: ChildQuery) -> ChildPage:
        matches = child_predicate(query)
        found = [StoredChild(number, child) for number, child in enumerate(self.children, 1) if matches(child)]
        found = [child for child in found if query.before is None or (child.number or 0) < query.before][::-1]
        window = Window(query.since, query.until or time.time_ns(), None)
        return ChildPage(found[: query.limit], window, self.lost, len(found) > query.limit)

    async def live_flows(self, query: FlowQuery) -> list[FlowRecord]:
        return [record for record in self.live if query.tenant in (None, record.tenant)]

    async def past_flows(self, query: FlowQuery) -> Page:
        self.before_past()
        key = SORT_KEYS[query.sort]
        found = [StoredFlow(key(r), r.flow_id, msgspec.json.encode(r)) for r in self.past if predicate(query)(r)]
        found = [flow for flow in found if query.after is None or flow[:2] > query.after]
        window = Window(query.since, query.until or time.time_ns(), min((r.end or 0 for r in self.past), default=None))
        return Page(sort_flows(found, query)[: query.limit], window, self.lost, len(found) > query.limit)

    async def all_live_flows(self, query: FlowQuery) -> AsyncGenerator[FlowRecord, None]:
        for record in list(self.live):
            yield record

    async def recorded_tenants(self) -> list[str]:
        return sorted({record.tenant for record in self.past})

    async def flow_groups(self, query: GroupsQuery) -> GroupsPage:
        counting, ranking = GroupCounter(query.by, RECORD_GETTERS), Ranking(query, display_value)
        for record in filter(predicate(query.flows), self.live + self.past):
            counting.add(record)
        for key, sums in counting.sums.items():
            ranking.add(key, sums)
        return ranking.page(Window(query.flows.since, query.flows.until or time.time_ns(), None), self.lost)

    def watch(self, tenant: str | None, put: Callable[[FlowRecord], None]) -> Callable[[], None]:
        def unwatch() -> None:
            with self.changed:
                del self.watchers[put]
                self.changed.notify_all()

        with self.changed:
            self.watchers[put] = tenant
            self.changed.notify_all()
        return unwatch

    def watch_ends(self, tenant: str | None, put: Callable[[FlowRecord], None]) -> Callable[[], None]:
        self.ends_watchers.append(put)
        return lambda: self.ends_watchers.remove(put)

    def wait_for_watchers(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.watchers) == count, timeout=20)

    def emit(self, record: FlowRecord) -> None:
        for put, tenant in list(self.watchers.items()):
            if tenant in (None, record.tenant):
                put(record)

    async def kill(self, flow_id: str, tenant: str | None) -> bool:
        found = [r for r in self.live if r.flow_id == flow_id and tenant in (None, r.tenant)]
        for record in found:
            self.live.remove(record)
        return bool(found)

    async def metrics(self) -> str:
        return render(self.status())


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def do(self, work: Any) -> Any:
        """The result of a coroutine, or of a function, run in the loop."""
        if not asyncio.iscoroutine(work):
            work = self._call(work)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    @staticmethod
    async def _call(function: Callable[[], Any]) -> Any:
        return function()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def proxy() -> FakeProxy:
    return FakeProxy()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control.sock")


@pytest.fixture
def start(loop: Loop, proxy: FakeProxy, path: str) -> Iterator[Callable[..., ControlServer]]:
    """Start a control server with some settings; it is stopped at the end."""
    servers: list[ControlServer] = []

    def start(**settings: Any) -> ControlServer:
        server = ControlServer(proxy, path, **settings)
        loop.do(server.start())
        servers.append(server)
        return server

    yield start
    for server in servers:
        loop.do(server.stop())


@pytest.fixture
def server(start: Callable[..., ControlServer]) -> ControlServer:
    return start()
