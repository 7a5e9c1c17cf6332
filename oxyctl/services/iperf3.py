"""The `iperf3` service: the real `iperf3 -s`, run in the node's namespace and restarted when it exits."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections import deque

from oxyctl.services.child import Child, dying_with_parent, spawn
from oxyctl.services.host import ATTEMPTS, Host
from oxyctl.services.service import Service, ServiceError, Unavailable, log

MISSING = "iperf3 is not installed (apt install iperf3)"
START_TIMEOUT_S = 10
PAUSE_S = 0.5  # before a restart


class Server:
    """One `iperf3 -s` on `address`, or on all addresses of its namespace if that is None."""

    def __init__(self, host: Host, program: str, port: int, address: str | None) -> None:
        self._host, self._port = host, port
        bind = [] if address is None else ["--bind", address]
        # --forceflush: standard output is a pipe, and a line of output shows that iperf3 listens
        self._command = dying_with_parent(program, "--server", "--forceflush", "--port", str(port), *bind)
        self._listening = asyncio.get_running_loop().create_future()
        self._last_lines: deque[str] = deque(maxlen=3)
        self._child: Child | None = None
        self._restarter: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens. ServiceError, with the program's output: it does not listen."""
        self._restarter = asyncio.create_task(self._keep_running())
        try:
            await asyncio.wait_for(asyncio.shield(self._listening), START_TIMEOUT_S)
        except TimeoutError:
            raise ServiceError(f"iperf3 does not listen after {START_TIMEOUT_S} s: {self._describe_output()}") from None

    async def stop(self) -> None:
        """Stop it, without a restart."""
        if self._restarter is not None:
            self._restarter.cancel()
            await asyncio.gather(self._restarter, return_exceptions=True)
        if self._child is not None:
            await self._child.kill()
        if self._listening.done():
            self._listening.exception()  # retrieved, in case nobody waits for it

    async def _keep_running(self) -> None:
        while True:
            code = await self._run()
            if not self._listening.done():
                self._listening.set_exception(ServiceError(f"iperf3 exited with {code}: {self._describe_output()}"))
                return
            log.info("%s iperf3: exited with %d, started again", self._host.name, code)
            await asyncio.sleep(PAUSE_S)

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        try:
            try:
                self._child = spawn(
                    self._host, self._command, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.STDOUT
                )
            finally:
                os.close(writing)
            async for line in reader:
                self._handle_line(line.decode(errors="replace").strip())
            return await self._child.exited
        finally:
            transport.close()

    def _handle_line(self, line: str) -> None:
        if line.strip("-"):
            self._last_lines.append(line)
            log.debug("%s iperf3: %s", self._host.name, line)
        if line.startswith("Server listening on") and not self._listening.done():
            self._listening.set_result(None)

    def _describe_output(self) -> str:
        return " / ".join(self._last_lines) or "it printed nothing"


class Iperf3Service:
    """One server for the node's namespace; without a namespace, one for each address."""

    detail: str | None = None

    def __init__(self, port: int, servers: list[Server]) -> None:
        self.port, self._servers = port, servers

    async def stop(self) -> None:
        """Stop all servers."""
        for server in self._servers:
            await server.stop()


async def start(host: Host, port: int) -> Service:
    """Start an iperf3 server on `port`; Unavailable if iperf3 is not installed."""
    program = shutil.which("iperf3")
    if program is None:
        return Unavailable(port, MISSING)
    for remaining in reversed(
        range(1 if port else ATTEMPTS)
    ):  # another program may take the free port before iperf3 does
        addresses: list[str | None] = [None] if host.netns else list(host.addresses)
        chosen = port or _free_port(host)
        service = Iperf3Service(chosen, [Server(host, program, chosen, address) for address in addresses])
        try:
            for server in service._servers:
                await server.start()
        except BaseException as error:
            await service.stop()
            if not remaining or not isinstance(error, ServiceError):
                raise
        else:
            return service
    raise AssertionError("the last attempt returns or raises")


def _free_port(host: Host) -> int:
    sockets = host.listen(0)
    port: int = sockets[0].getsockname()[1]
    for sock in sockets:
        sock.close()
    return port
