"""A connected on-ramp on a real socket, and clients that talk to it by datagrams."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

from proxy.hooks import HookRunner, Hooks
from proxy.onramps.connected import ConnectedRamp
from proxy.onramps.tunnel import Tunnel
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import Plane
from proxy.settings.model import ConnectedOnRamp, Limits, TenantSettings
from tests.flows import Tenant
from tests.loops import Loop, running
from tests.packet.script import Opener

GOOD = {"tenant": "acme", "token": "secret", "addresses": ["100.96.0.2", "fd00:96::2"]}


class Client:
    """One client: sends datagrams, and runs the loop until an answer is there."""

    def __init__(self, ramp: Ramp) -> None:
        self._loop = ramp.loop
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.sock.connect(ramp.path)

    def send(self, data: Any) -> Client:
        self.sock.send(data if isinstance(data, bytes) else json.dumps(data).encode())
        return self

    def receive(self) -> bytes:
        def attempt() -> list[bytes] | None:
            try:
                return [self.sock.recv(70_000)]
            except BlockingIOError:
                return None
            except ConnectionResetError:
                return [b""]

        return self._loop.until(attempt)[0]

    def answer(self) -> dict[str, Any]:
        return json.loads(self.receive())

    def refusal(self) -> str:
        """Why not; the proxy must have hung up behind it."""
        answer = self.answer()
        assert answer.keys() == {"ok", "error"}
        assert answer["ok"] is False
        assert self.receive() == b""
        return answer["error"]

    def close(self) -> None:
        self.sock.close()


class Ramp:
    """The on-ramp with a packet plane whose openers are the test's, for the tenants `acme` and `globex`."""

    def __init__(
        self, loop: Loop, directory: str, *, hooks: Hooks | None = None, context_s: float = 5.0, **limits: Any
    ) -> None:
        self.loop, self.path = loop, os.path.join(directory, "ramp.sock")
        prefixes = ["100.96.0.0/12", "fd00:96::/32"]
        acme = TenantSettings(token="secret", prefixes=prefixes, limits=Limits(**limits))
        self.acme, self.globex = Tenant("acme", acme), Tenant("globex", TenantSettings())
        self.opener = Opener()
        self.hooks = HookRunner(hooks or Hooks())
        self.opened: list[Tunnel] = []
        self.closed: list[Tunnel] = []
        self.clients: list[Client] = []
        self._tun = os.open("/dev/null", os.O_WRONLY)
        plane = Plane(self.opener, IcmpErrors())
        self.ramp = loop.call(
            lambda: ConnectedRamp(
                ConnectedOnRamp(path=self.path), {"acme": self.acme, "globex": self.globex}, plane, loop.poller,
                self.hooks, {False: self._tun, True: self._tun}, context_timeout_s=context_s,
                opened=self.opened.append, closed=self._closed,
            )
        )  # fmt: skip

    def _closed(self, tunnel: Tunnel) -> None:
        """What the application does when a client hangs up."""
        tunnel.tenant.detach(tunnel)
        self.closed.append(tunnel)

    def client(self) -> Client:
        client = Client(self)
        self.clients.append(client)
        return client

    def admitted(self, **changes: Any) -> tuple[Client, Tunnel]:
        client = self.client().send({**GOOD, **changes})
        assert client.answer()["ok"] is True
        return client, self.opened[-1]

    def close(self) -> None:
        self.loop.call(self.ramp.close)
        for tunnel in self.opened:
            self.loop.call(tunnel.close)
        for client in self.clients:
            client.close()
        os.close(self._tun)


@contextlib.contextmanager
def ramping(**options: Any) -> Iterator[Ramp]:
    """An on-ramp that holds no byte and no descriptor at the end."""
    with tempfile.TemporaryDirectory() as directory, running() as loop:
        ramp = Ramp(loop, directory, **options)
        try:
            yield ramp
        finally:
            ramp.close()
        assert (ramp.acme.held_bytes, ramp.globex.held_bytes) == (0, 0)
        assert not os.path.exists(ramp.path)
