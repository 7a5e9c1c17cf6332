"""The control API's paths: the parameters and the answer of each."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from proxy.control import ca, policies, ssh
from proxy.control.exporting import export
from proxy.control.http11 import HttpError, Request, Response
from proxy.control.listing import CHILD_KINDS, encode_children, encode_page, list_flows
from proxy.control.schema import SCHEMA, GroupsAnswer, ProxyView, RoutesChange
from proxy.control.watch import Watcher
from proxy.errors import ProxyError
from proxy.flow.childparameters import parse_children
from proxy.flow.parameters import (
    EXPORT_PARAMETERS,
    LIST_PARAMETERS,
    TENANT,
    WATCH_PARAMETERS,
    QueryError,
    parse_groups,
    parse_query,
)
from proxy.flow.query import FlowQuery, predicate
from proxy.settings import suggest

Pairs = list[tuple[str, str]]
_NDJSON = "application/x-ndjson"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_encode = msgspec.json.Encoder().encode
_decode_routes = msgspec.json.Decoder(RoutesChange).decode


class Route(NamedTuple):
    path: re.Pattern[str]
    methods: dict[str, Callable[..., Awaitable[Response]]]


class Routes:
    """Answers requests for one proxy."""

    def __init__(self, view: ProxyView) -> None:
        self._view = view
        self.watchers: set[Watcher | ssh.ScreenWatcher] = set()
        self._routes = [
            Route(re.compile(r"/v1/status"), {"GET": self._status}),
            Route(re.compile(r"/v1/tunnels"), {"GET": self._tunnels}),
            Route(re.compile(r"/v1/routes"), {"GET": self._get_routes, "PUT": self._put_routes}),
            Route(re.compile(r"/v1/flows"), {"GET": self._flows}),
            Route(re.compile(r"/v1/flows/export"), {"GET": self._export}),
            Route(re.compile(r"/v1/flows/groups"), {"GET": self._groups}),
            Route(re.compile(r"/v1/flows/watch"), {"GET": self._watch}),
            Route(re.compile(r"/v1/flows/([^/]+)"), {"GET": self._flow, "DELETE": self._kill}),
            Route(re.compile(r"/v1/(requests|channels|files)"), {"GET": self._children}),
            Route(re.compile(r"/v1/ssh/host-keys"), {"GET": self._host_keys}),
            Route(re.compile(r"/v1/ssh/host-keys/([^/]+)"), {"POST": self._rotate_host_key}),
            Route(re.compile(r"/v1/ssh/sessions/([^/]+)"), {"DELETE": self._end_ssh}),
            Route(re.compile(r"/v1/ssh/sessions/([^/]+)/watch"), {"GET": self._watch_ssh}),
            Route(re.compile(r"/v1/ssh/recordings"), {"GET": self._recordings}),
            Route(re.compile(r"/v1/ssh/recordings/([^/]+)"), {"GET": self._recording}),
            Route(re.compile(r"/v1/policies"), {"GET": self._policies}),
            Route(re.compile(r"/v1/policies/explain"), {"POST": self._explain}),
            Route(re.compile(r"/v1/ca"), {"GET": self._authorities}),
            Route(re.compile(r"/v1/ca/rotate"), {"POST": self._rotate}),
            Route(re.compile(r"/v1/reload"), {"POST": self._reload}),
            Route(re.compile(r"/metrics"), {"GET": self._metrics}),
        ]

    async def __call__(self, request: Request) -> Response:
        """The response. Raises HttpError if the request is unknown, not allowed or invalid."""
        for route in self._routes:
            if match := route.path.fullmatch(request.path):
                method = "GET" if request.method == "HEAD" else request.method
                if method not in route.methods:
                    allowed = ", ".join([*route.methods, "HEAD"])
                    raise HttpError(405, f"{request.path} takes {allowed}", (("allow", allowed),))
                return await self._call(route.methods[method], request, match.groups())
        raise HttpError(
            404,
            f"no such path: {request.path}; see /v1/status, /v1/tunnels, /v1/routes, /v1/flows, /v1/requests, "
            "/v1/channels, /v1/files, /v1/ssh/host-keys, /v1/ssh/recordings, /v1/policies, /metrics",
        )

    async def _call(
        self, handler: Callable[..., Awaitable[Response]], request: Request, arguments: tuple[str, ...]
    ) -> Response:
        try:
            body = (request.body,) if request.method in ("PUT", "POST") else ()
            return await handler(request.parameters, *(unquote(part) for part in arguments), *body)
        except QueryError as error:
            raise HttpError(400, str(error)) from None
        except ProxyError as error:
            raise HttpError(503 if error.retryable else 500, str(error)) from None

    async def _status(self, pairs: Pairs) -> Response:
        _check_parameters(pairs)
        return _envelope("status", [self._view.status()])

    async def _tunnels(self, pairs: Pairs) -> Response:
        _check_parameters(pairs, "tenant")
        return _envelope("tunnels", self._view.tunnels(dict(pairs).get("tenant")))

    async def _get_routes(self, pairs: Pairs) -> Response:
        _check_parameters(pairs, "tenant")
        return _envelope("routes", await self._view.routes(dict(pairs).get("tenant")))

    async def _put_routes(self, pairs: Pairs, body: bytes) -> Response:
        _check_parameters(pairs)
        try:
            change = _decode_routes(body)
            self._view.set_routes(change)
        except (msgspec.DecodeError, UnicodeDecodeError, ProxyError) as error:
            raise HttpError(400, f"routes: {error}") from None
        return _envelope("routes", [r for r in await self._view.routes(change.tenant) if r.network == change.network])

    async def _flows(self, pairs: Pairs) -> Response:
        page = await list_flows(self._view, _query(pairs, LIST_PARAMETERS))
        return Response(body=encode_page("flows", page))

    async def _export(self, pairs: Pairs) -> Response:
        return Response(body=export(self._view, _query(pairs, EXPORT_PARAMETERS)), content_type=_NDJSON)

    async def _groups(self, pairs: Pairs) -> Response:
        page = await self._view.flow_groups(parse_groups(pairs, datetime.now().astimezone()))
        answer = GroupsAnswer(items=page.groups, window=page.window, lost=page.lost, truncated=page.truncated)
        return Response(body=_encode(answer) + b"\n")

    async def _flow(self, pairs: Pairs, flow_id: str) -> Response:
        query = msgspec.structs.replace(_query(pairs, tuple(TENANT)), flow_id=(flow_id,), limit=1)
        page = await list_flows(self._view, query)
        if not page.flows:
            raise _no_flow(flow_id, query)
        return Response(body=encode_page("flow", page))

    async def _children(self, pairs: Pairs, plural: str) -> Response:
        query = parse_children(CHILD_KINDS[plural], pairs, datetime.now().astimezone())
        return Response(body=encode_children(plural, await self._view.list_children(query)))

    async def _kill(self, pairs: Pairs, flow_id: str) -> Response:
        query = _query(pairs, tuple(TENANT))
        if not await self._view.kill(flow_id, query.tenant):
            raise _no_flow(flow_id, query, "live ")
        return _envelope("killed", [{"flow_id": flow_id}])

    async def _watch(self, pairs: Pairs) -> Response:
        query = _query(pairs, WATCH_PARAMETERS)
        watcher = Watcher(predicate(query))
        unsubscribe = self._view.watch(query.tenant, watcher.put)
        self.watchers.add(watcher)

        def done() -> None:
            unsubscribe()
            self.watchers.discard(watcher)

        return Response(body=watcher.chunks(), content_type=_NDJSON, is_watch=True, done=done)

    async def _host_keys(self, pairs: Pairs) -> Response:
        _check_parameters(pairs, "tenant")
        return _envelope("ssh-host-keys", ssh.host_keys(self._view, dict(pairs).get("tenant")))

    async def _rotate_host_key(self, pairs: Pairs, tenant: str, body: bytes) -> Response:
        _check_parameters(pairs)
        return _envelope("ssh-host-keys", [ssh.rotate(self._view, tenant)])

    async def _end_ssh(self, pairs: Pairs, identifier: str) -> Response:
        ssh.end_session(self._view, identifier, _query(pairs, tuple(TENANT)).tenant)
        return _envelope("ended", [{"id": identifier}])

    async def _watch_ssh(self, pairs: Pairs, channel_id: str) -> Response:
        watcher = ssh.ScreenWatcher(self._view, channel_id, _query(pairs, tuple(TENANT)).tenant)
        self.watchers.add(watcher)

        def done() -> None:
            watcher.unwatch()
            self.watchers.discard(watcher)

        return Response(body=watcher.chunks(), content_type=_NDJSON, is_watch=True, done=done)

    async def _recordings(self, pairs: Pairs) -> Response:
        tenant = _query([pair for pair in pairs if pair[0] != "id"], tuple(TENANT)).tenant
        return _envelope("ssh-recordings", ssh.recordings(self._view, pairs, tenant))

    async def _recording(self, pairs: Pairs, name: str) -> Response:
        body = ssh.recording(self._view, name, _query(pairs, tuple(TENANT)).tenant)
        return Response(body=body, content_type="application/octet-stream")

    async def _policies(self, pairs: Pairs) -> Response:
        _check_parameters(pairs, "tenant", "text")
        parameters = dict(pairs)
        if parameters.get("text", "false") not in ("true", "false"):
            raise QueryError(f"text: expected true or false (found '{parameters['text']}')")
        found = policies.describe(self._view.policy, parameters.get("tenant"), parameters.get("text") == "true")
        return _envelope("policies", found)

    async def _explain(self, pairs: Pairs, body: bytes) -> Response:
        _check_parameters(pairs)
        return _envelope("explanation", policies.explain(self._view.policy, body))

    async def _authorities(self, pairs: Pairs) -> Response:
        _check_parameters(pairs, "tenant")
        return _envelope("authorities", ca.describe(self._view.authorities, dict(pairs).get("tenant")))

    async def _rotate(self, pairs: Pairs, body: bytes) -> Response:
        _check_parameters(pairs)
        return _envelope("authorities", ca.rotate(self._view.authorities, body))

    async def _reload(self, pairs: Pairs, body: bytes) -> Response:
        _check_parameters(pairs)
        return _envelope("reloaded", await policies.reload(self._view.policy))

    async def _metrics(self, pairs: Pairs) -> Response:
        _check_parameters(pairs)
        return Response(body=(await self._view.metrics()).encode(), content_type=_PROMETHEUS)


def _query(pairs: Pairs, allowed: tuple[str, ...]) -> FlowQuery:
    return parse_query(pairs, datetime.now().astimezone(), allowed)


def _check_parameters(pairs: Pairs, *allowed: str) -> None:
    for name, _ in pairs:
        if name not in allowed:
            raise QueryError(f"unknown parameter '{name}'{suggest(name, allowed)}")
    if len(pairs) > len(allowed):
        raise QueryError(f"{pairs[0][0]}: given twice")


def _no_flow(flow_id: str, query: FlowQuery, kind: str = "") -> HttpError:
    owner = "no tenant" if query.tenant is None else f"tenant {query.tenant}"
    verb = "has a" if query.tenant is None else "has no"
    return HttpError(404, f"{owner} {verb} {kind}flow {flow_id}")


def _envelope(kind: str, items: list[Any]) -> Response:
    return Response(body=_encode({"schema": SCHEMA, "kind": kind, "items": items}) + b"\n")
