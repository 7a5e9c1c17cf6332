"""Readiness probes for each kind of node, repeated until the node is ready."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from oxyctl.errors import OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.net.sockets import shortened
from oxyctl.plan.steps import Control, Exec, Http, PlannedNode, Port, Probe, Running, Services, SiteOpen, Tunnel
from oxyctl.supervise.processes import Processes, Program, tail
from oxyctl.supervise.program_probes import PAUSES_S, until_answered

SETTLE_S = 0.1  # long enough for a program that fails at its start


def description(probe: Probe) -> str:
    """What the probe waits for, in words."""
    match probe:
        case Running():
            return "its program to keep running"
        case Control(socket=path):
            return f"GET /v1/status on {path} to be answered with 200"
        case Tunnel():
            return "the proxy to accept its tunnel"
        case SiteOpen(is_probed=is_probed):
            return "its tunnel to be open" + (" and the proxy to answer through it" if is_probed else "")
        case Services(services=services):
            ports = ", ".join(f"{name} on {port}" for name, port in services.items())
            return f"its services to accept connections ({ports})"
        case Port(port=port):
            return f"its program to accept TCP on port {port}"
        case Http(port=port, host=host, path=path):
            return f"GET http://{host}{path} to be answered with 200 to 399"
        case Exec(command=command):
            return f"`{' '.join(command)}` to end with exit code 0"


async def until_ready(node: PlannedNode, program: Program, processes: Processes) -> None:
    """Return when `node` is ready. OxyctlError: it never will be. The caller sets the deadline."""
    namespaces = processes.namespaces
    match node.probe:
        case Port() | Http() | Exec() as probe:
            await until_answered(node.name, probe, processes)
        case Running():
            await asyncio.wait({program.exited}, timeout=SETTLE_S)
        case Control(socket=path):
            await _until(lambda: _answers(path))
        case Tunnel(services=services):
            await _report(program, lambda report: _is_accepted(node, report))
            if services:
                await _report(processes.programs["services"], lambda report: _listening(node, report))
        case SiteOpen() as site_open:
            await _report(program, lambda _: _is_open(node.name, site_open, program))
        case Services() as services:
            ports = await _report(program, lambda report: _listening(node, report))
            for address in services.addresses:
                for port in ports:
                    await _until(lambda a=address, p=port: _accepts(node.name, a, p, namespaces))  # type: ignore[misc]  # as in checks/probes.py


async def until_names(processes: Processes, timeout_s: float) -> None:
    """Return when the lab's resolver answers in every node. OxyctlError: not within `timeout_s`."""
    names = processes.programs.get("names")
    if names is None:
        return
    report = asyncio.ensure_future(_report(names, lambda report: report.get("ready")))
    futures: set[asyncio.Future[Any]] = {report, names.exited}
    await asyncio.wait(futures, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED)
    if not report.done():
        report.cancel()
        what = "not ready in time" if names.is_running else names.describe_exit()
        raise OxyctlError(f"the resolver of the lab: {what}\n  its log:\n{tail(names.log)}")


async def _until(succeeds: Callable[[], Awaitable[bool]]) -> None:
    for attempt in range(1 << 30):
        if await succeeds():
            return
        await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])


async def _report(program: Program, extract: Callable[[dict[str, Any]], Any]) -> Any:
    """The first value, not None, that `extract` returns for a past or future report of `program`."""
    seen = 0
    while True:
        reported = program.reported
        for report in program.reports[seen:]:
            if (found := extract(report)) is not None:
                return found
        seen = len(program.reports)
        await reported.wait()


def _is_accepted(node: PlannedNode, report: dict[str, Any]) -> bool | None:
    if report.get("node") != node.name:
        return None
    if report.get("event") == "refused":
        raise OxyctlError(str(report.get("detail")))
    return True if report.get("event") == "accepted" else None


def _is_open(site: str, site_open: SiteOpen, program: Program) -> bool | None:
    """True if the reports so far show that the site is ready, else None. OxyctlError: an end cannot be opened."""
    last = site_reports(program, site)
    for end in site_open.ends:
        state = last.get((end, "open"))
        if state is not None and state["event"] == "refused":
            raise OxyctlError(str(state.get("detail")))
        if state is None:
            return None
    healths = [report.get("health") for (_, what), report in last.items() if what == "health"]
    return True if not site_open.is_probed or "healthy" in healths else None


def site_reports(program: Program, site: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The last reports by end of a site's tunnel and topic: `open` or `health`."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for report in program.reports:
        if report.get("node") == site:
            what = "health" if report.get("event") == "health" else "open"
            last[str(report.get("end")), what] = report
    return last


def _listening(node: PlannedNode, report: dict[str, Any]) -> list[int] | None:
    """The ports of listening services once all have reported, else None. Unavailable services are left out."""
    if not report.get("ready"):
        return None
    own = [service for service in report.get("services", []) if service.get("node") == node.name]
    return [service["port"] for service in own if service.get("state") == "listening"]


async def _answers(path: str) -> bool:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        with shortened(path) as short:
            await asyncio.get_running_loop().sock_connect(sock, short)
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        writer.write(b"GET /v1/status HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return line.split()[1:2] == [b"200"]
    except OSError:
        sock.close()
        return False


async def _accepts(node: str, address: str, port: int, namespaces: Namespaces) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespaces.inside(node):
        sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        return True
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.ENETUNREACH):
            raise OxyctlError(f"{address} is not reachable inside the node: {error.strerror}") from None
        return False
    finally:
        sock.close()
