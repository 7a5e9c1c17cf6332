"""Readiness probes of a user's program, from inside its node: TCP, HTTP, or a command."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from oxyctl.errors import OxyctlError
from oxyctl.net.namespaces import Namespaces
from oxyctl.plan.steps import Exec, Http, Port, Process
from oxyctl.supervise.processes import Processes

PAUSES_S = (0.01, 0.02, 0.05, 0.1)  # between attempts; the last one repeats
ATTEMPT_S = 5.0


async def until_answered(node: str, probe: Port | Http | Exec, processes: Processes) -> None:
    """Return when `probe` succeeds in `node`. OxyctlError: not within the probe's own time limit."""
    try:
        async with asyncio.timeout(probe.timeout_s):
            attempt = 0
            while not await _succeeds(node, probe, processes):
                await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
                attempt += 1
    except TimeoutError:
        raise OxyctlError(f"not ready within {probe.timeout_s:g} s") from None


async def _succeeds(node: str, probe: Port | Http | Exec, processes: Processes) -> bool:
    match probe:
        case Port():
            return await _connects(node, probe.addresses, probe.port, processes.namespaces)
        case Http():
            return await _responds(node, probe, processes.namespaces)
        case Exec():
            return await _exits_zero(node, probe, processes)


async def _connects(node: str, addresses: Sequence[str], port: int, namespaces: Namespaces) -> bool:
    for address in addresses:
        sock = await _connect(node, address, port, namespaces)
        if sock is not None:
            sock.close()
            return True
    return False


async def _connect(node: str, address: str, port: int, namespaces: Namespaces) -> socket.socket | None:
    with namespaces.inside(node):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(ATTEMPT_S):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except OSError:  # TimeoutError is one
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


async def _responds(node: str, probe: Http, namespaces: Namespaces) -> bool:
    for address in probe.addresses:
        sock = await _connect(node, address, probe.port, namespaces)
        if sock is not None:
            return await _status(sock, probe) in range(200, 400)
    return False


async def _status(sock: socket.socket, probe: Http) -> int | None:
    """The status of the HTTP response; None: no valid response."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        async with asyncio.timeout(ATTEMPT_S):
            request = f"GET {probe.path} HTTP/1.1\r\nHost: {probe.host}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            words = (await reader.readline()).split()
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
    except (OSError, ValueError):  # TimeoutError is an OSError; ValueError: a line without end
        return None
    finally:
        writer.close()


async def _exits_zero(node: str, probe: Exec, processes: Processes) -> bool:
    """Whether the command ends with exit code 0. Its output is in the log `NODE.ready`."""
    process = Process(
        name=f"{node}.ready",
        node=node,
        command=probe.command,
        directory=probe.directory,
        environment=probe.environment,
    )
    return await processes.start(process).exited == 0
