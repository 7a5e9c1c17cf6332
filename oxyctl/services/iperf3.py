"""The `iperf3` service: the real `iperf3 -s`, run inside the node's namespace and started again when it ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections import deque

from oxyctl.services.child import Child, dying_with_us, spawn
from oxyctl.services.host import ATTEMPTS, Host
from oxyctl.services.service import Service, ServiceError, Unavailable, log

MISSING = "iperf3 is not installed (apt install iperf3)"
START_TIMEOUT_S = 10
PAUSE_S = 0.5  # before it is started again


class Server:
    """One `iperf3 -s`: on one address, or on all of its namespace when `address` is None."""

    def __init__(self, host: Host, program: str, port: int, address: str | None) -> None:
        self._host, self._port = host, port
        bind = [] if address is None else ["--bind", address]
        # --forceflush: its standard output is a pipe, and what it prints tells that it listens
        self._command = dying_with_us(program, "--server", "--forceflush", "--port", str(port), *bind)
        self._listening = asyncio.get_running_loop().create_future()
        self._said: deque[str] = deque(maxlen=3)
        self._child: Child | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens; ServiceError with what it said when it does not."""
        self._keeper = asyncio.create_task(self._keep_running())
        try:
            await asyncio.wait_for(asyncio.shield(self._listening), START_TIMEOUT_S)
        except TimeoutError:
            raise ServiceError(f"iperf3 does not listen after {START_TIMEOUT_S} s: {self._last_words()}") from None

    async def stop(self) -> None:
        """End it for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._child is not None:
            await self._child.kill()
        if self._listening.done():
            self._listening.exception()  # seen, whoever was waiting

    async def _keep_running(self) -> None:
        while True:
            code = await self._run()
            if not self._listening.done():
                self._listening.set_exception(ServiceError(f"iperf3 exited with {code}: {self._last_words()}"))
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
                self._hear(line.decode(errors="replace").strip())
            return await self._child.exited
        finally:
            transport.close()

    def _hear(self, line: str) -> None:
        if line.strip("-"):
            self._said.append(line)
            log.debug("%s iperf3: %s", self._host.name, line)
        if line.startswith("Server listening on") and not self._listening.done():
            self._listening.set_result(None)

    def _last_words(self) -> str:
        return " / ".join(self._said) or "it said nothing"


class Iperf3Service:
    """Its servers: one for the node's namespace, or one per address when it has none of its own."""

    detail: str | None = None

    def __init__(self, port: int, servers: list[Server]) -> None:
        self.port, self._servers = port, servers

    async def stop(self) -> None:
        """End all of them."""
        for server in self._servers:
            await server.stop()


async def start(host: Host, port: int) -> Service:
    """An iperf3 server on `port`, or the word that iperf3 is not there."""
    program = shutil.which("iperf3")
    if program is None:
        return Unavailable(port, MISSING)
    for remaining in reversed(range(1 if port else ATTEMPTS)):  # somebody may get the free port before iperf3 does
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
