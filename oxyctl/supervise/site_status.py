"""The tunnels of sites in `lab status`: what carries each end, and the health that each end sees."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Mapping
from typing import Any

import msgspec

from oxyctl.net.sockets import shortened
from oxyctl.plan.steps import By, Plan, SiteTunnel
from oxyctl.supervise.probes import site_reports
from oxyctl.supervise.processes import Program

TIMEOUT_S = 2.0
REQUEST = b"GET /v1/tunnels HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n"


class TunnelStatus(msgspec.Struct, kw_only=True):
    """The tunnel of one site. Health is healthy, degraded or down; None: not probed, or unknown yet."""

    site: str
    kind: str
    proxy: str
    tenant: str
    network: str
    interface: str
    mtu: int
    outer: list[str]  # the site's address, the proxy's
    by: By  # what carries the site's end
    edge: By | None = None  # what carries the other end; None: the proxy itself
    health: str | None = None  # as seen by the site
    rtt_ms: float | None = None
    proxy_health: str | None = None
    proxy_rtt_ms: float | None = None


async def tunnel_statuses(plan: Plan, program: Program | None) -> list[TunnelStatus]:
    """The tunnels of `plan`, in its order. `program`: the one that carries them."""
    if not plan.tunnels:
        return []
    controls = {node.name: node.control for node in plan.nodes if node.control is not None}
    proxy_tunnels = {name: await _query_proxy(controls[name]) for name in dict.fromkeys(t.proxy for t in plan.tunnels)}
    return [_status(tunnel, program, proxy_tunnels[tunnel.proxy]) for tunnel in plan.tunnels]


def _status(tunnel: SiteTunnel, program: Program | None, proxy_tunnels: Mapping[str, Any]) -> TunnelStatus:
    reports = {} if program is None else site_reports(program, tunnel.site)
    site_view: dict[str, Any] = next((report for (_, what), report in reports.items() if what == "health"), {})
    proxy_view: dict[str, Any] = proxy_tunnels.get(tunnel.site, {})
    return TunnelStatus(
        site=tunnel.site,
        kind=tunnel.kind,
        proxy=tunnel.proxy,
        tenant=tunnel.tenant,
        network=tunnel.network,
        interface=tunnel.interface,
        mtu=tunnel.mtu,
        outer=tunnel.outer,
        by=tunnel.by,
        edge=tunnel.edge,
        health=site_view.get("health"),
        rtt_ms=site_view.get("rtt_ms"),
        proxy_health=proxy_view.get("health"),
        proxy_rtt_ms=proxy_view.get("rtt_ms"),
    )


async def _query_proxy(control: str) -> dict[str, Any]:
    """The proxy's status of its sites' tunnels, by site; empty if it does not answer."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # TimeoutError is an OSError
        async with asyncio.timeout(TIMEOUT_S):
            head, _, body = (await _exchange(control)).partition(b"\r\n\r\n")
        if head.split()[1:2] == [b"200"]:
            return {str(item["site"]): item for item in json.loads(body)["items"] if item["site"] is not None}
    return {}


async def _exchange(control: str) -> bytes:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with shortened(control) as path:
            await asyncio.get_running_loop().sock_connect(sock, path)
        reader, writer = await asyncio.open_unix_connection(sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        writer.write(REQUEST)
        return await reader.read()
    finally:
        writer.close()
