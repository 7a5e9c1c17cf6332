"""The bridge for regress tests: it ends each client's SSH session as an inspector does.

Everything that settings can allow is allowed. The host key is that of the tests' server, and so is the key for
origins, so that neither end needs configuration for the bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from proxy.ca.ssh import SigningKey
from proxy.errors import ProxyError
from proxy.inspect.ssh.bridge import Bridge
from proxy.session.facts import FlowFacts
from proxy.session.ssh import SSHRules

KEY = "ssh-ed25519"


class View:
    """An `SSHView` that allows everything, and keeps no records."""

    def __init__(self, number: int, keys: Path) -> None:
        self._keys = keys
        own = (keys / f"{KEY}.pub").read_text().strip()
        known = "".join(
            f"* {path.read_text()}"
            for path in sorted(keys.glob("*.pub"))
            if path.stem.startswith(("ssh-", "ec")) and not path.stem.endswith("-cert")
        )
        self.flow = FlowFacts(
            id=f"regress{number}", tenant="regress", onramp="clients", tunnel="t1", src="127.0.0.1", src_port=1,
            dst="127.0.0.1", dst_port=22,
        )  # fmt: skip
        self.rules = SSHRules(
            host_key=own, trust_tunnel=True, onward="key", onward_key=own, known_hosts=known, local_forwarding=True,
            remote_forwarding=True, agent_forwarding=True, x11_forwarding=True,
        )  # fmt: skip

    def judge(self, facts: Mapping[str, Any]) -> None:
        return None

    def has(self, hook: str) -> bool:
        return False

    async def ask(self, hook: str, argument: Any) -> None:
        return None

    async def certificate(self, public_key: str, user: str, identity: str) -> str:
        raise ProxyError("there are none")

    async def sign(self, key: str, data: bytes, algorithm: str) -> bytes:
        return SigningKey.load((self._keys / KEY).read_bytes()).sign(data, algorithm)

    async def fingerprints(self) -> list[bytes]:
        return []

    async def recording(self, name: str) -> int:
        raise ProxyError("nothing is recorded")

    def opened(self, channel_id: str, end: Callable[[str], None], terminal: Any) -> None: ...

    def record(self, child: msgspec.Struct) -> None: ...


class Through:
    """Listens at a Unix socket for requests of `sshd.py`, and at the ports that they name."""

    def __init__(self, keys: Path) -> None:
        """`keys`: the directory of the tests' keys."""
        self._keys = keys
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ports: dict[int, socket.socket] = {}

    async def serve(self, path: str) -> None:
        """Serve until cancelled."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(100)
        listener.setblocking(False)
        await self._accept(listener, self._asked)

    async def _accept(self, listener: socket.socket, take: Callable[[socket.socket], Any]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            self._spawn(take(sock))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _asked(self, sock: socket.socket) -> None:
        loop, line = asyncio.get_running_loop(), b""
        while not line.endswith(b"\n"):
            line += await loop.sock_recv(sock, 1)
        asked = json.loads(line)
        if "listen" in asked:
            self._listen(asked["listen"], asked["port"])
            sock.close()
            return
        ours, theirs = socket.socketpair()
        with theirs:  # pipes, as without the bridge: programs can see how sshd is connected
            process = await asyncio.create_subprocess_exec(
                "sh",
                "-c",
                'cat | "$@" | cat',
                "sh",
                *asked["command"],
                stdin=theirs,
                stdout=theirs,
                env=asked["environment"],
            )
        ours.setblocking(False)
        await self._bridge(sock, ours)
        await process.wait()

    def _listen(self, port: int, origin: int) -> None:
        if port in self._ports:
            return
        listener = self._ports[port] = socket.create_server(("127.0.0.1", port))
        listener.setblocking(False)

        async def reach(client: socket.socket) -> None:
            try:
                sock = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", origin))
            except OSError:
                client.close()
                return
            sock.setblocking(False)
            await self._bridge(client, sock)

        self._spawn(self._accept(listener, reach))

    async def _bridge(self, client: socket.socket, origin: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await Bridge(View(next(self._numbers), self._keys)).run(client, origin)


@contextlib.contextmanager
def bridging(path: str, keys: Path) -> Any:
    """A bridge in a separate process, ready for requests."""
    process = os.fork()
    if process == 0:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(Through(keys).serve(path))
        os._exit(0)
    try:
        yield
    finally:
        os.kill(process, 15)
        os.waitpid(process, 0)
