"""Carries out a request: resolves the address, runs the generator, reports progress and the result."""

from __future__ import annotations

import asyncio
import importlib
import socket
from collections.abc import Awaitable, Callable
from typing import cast

from oxyctl.traffic.config import DNS_PORT, AnyTraffic, DnsTraffic, PingTraffic, TcpTraffic, Traffic
from oxyctl.traffic.failures import Unusable
from oxyctl.traffic.tally import Progress, Report, Tally
from oxyctl.traffic.targets import parse_endpoint, parse_url, parse_websocket_url

PROGRESS_S = 1.0
Generator = Callable[[Traffic, str, Tally], Awaitable[None]]


def check(traffic: AnyTraffic) -> str:
    """The host that `traffic` is sent to. ValueError: its target is not valid for this kind."""
    if traffic.kind == "http" or (isinstance(traffic, TcpTraffic) and traffic.target.startswith("http://")):
        return parse_url(traffic.target).endpoint.host
    if traffic.kind == "websocket":
        return parse_websocket_url(traffic.target).endpoint.host
    default = {PingTraffic: 1, DnsTraffic: DNS_PORT}.get(type(traffic))
    return parse_endpoint(traffic.target, default).host


async def resolve(host: str, family: int | None) -> str:
    """The first address of `host` in `family` (4, 6, None: either). Unusable: it has none."""
    address_family = {4: socket.AF_INET, 6: socket.AF_INET6, None: socket.AF_UNSPEC}[family]
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(
            host, None, family=address_family, type=socket.SOCK_STREAM
        )
    except (socket.gaierror, UnicodeError) as error:
        which = f"no IPv{family} address" if family else "no address"
        reason = error.strerror if isinstance(error, socket.gaierror) else str(error)
        raise Unusable(f"'{host}' has {which}: {reason}") from None
    return str(addresses[0][4][0])


async def run(traffic: AnyTraffic, on_progress: Callable[[Progress], None], stopped: asyncio.Event) -> Report:
    """Run `traffic` to its end, or until `stopped` is set. Unusable: nothing can be sent."""
    loop = asyncio.get_running_loop()
    try:
        host = check(traffic)
    except ValueError as error:
        raise Unusable(str(error)) from None
    address = await resolve(host, traffic.family)
    tally = Tally(traffic, loop.time())
    generator = cast(Generator, importlib.import_module(f"oxyctl.traffic.{traffic.kind}").run)
    work = asyncio.ensure_future(generator(traffic, address, tally))
    stop = loop.create_task(stopped.wait())
    try:
        while not work.done() and not stop.done():
            await asyncio.wait({work, stop}, timeout=PROGRESS_S, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not stop.done():
                on_progress(tally.progress(loop.time()))
    finally:
        interrupted = not work.done()
        work.cancel()
        stop.cancel()
        await asyncio.wait({work, stop})
    if not work.cancelled():
        work.result()
    return tally.report(loop.time(), address=address, interrupted=interrupted)
