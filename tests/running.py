"""A real proxy in a namespace, its origins in another, and clients that speak packets to it."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from scapy.layers.inet import TCP
from scapy.packet import Packet, Raw

from proxy.context import TunnelContext
from proxy.control.client import ControlClient, ControlError
from proxy.control.schema import Status
from proxy.device.interface import bring_up, set_sysctl
from proxy.device.seqpacket import dial
from proxy.device.tun import open_tun
from tests.netns import Laptop, Namespace, connect, route
from tests.packets import decode, network

ROOT = Path(__file__).resolve().parent.parent
ORIGIN = {4: "10.50.0.10", 6: "fd00:50::10"}
UNROUTED = {4: "203.0.113.9", 6: "2001:db8::9"}
REFUSED_BY_ROUTER = {4: "10.77.0.9", 6: "fd00:77::9"}
SILENT = "10.66.0.9"
PATIENCE_S = 15.0
START_S = 60.0  # Python takes a second of a processor that it may have to share with twenty others

CONFIGURATION = """
node: edge
tenants:
  acme: {prefixes: [100.96.0.0/12, "fd00:96::/32"]}
  globex: {token: secret, limits: {flows: 200}}
onramps:
  - {kind: connected, path: ramp.sock}
hooks: tests.applications:Denies
timeouts: {connect_s: 4, context_s: 2}
"""


def until(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """What `condition` says once it is true. It may wait a little itself; AssertionError when it is never true."""
    deadline = time.monotonic() + patience_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"still not so after {patience_s} s"
        select.select([], [], [], 0.005)
    return answer


class Client:
    """Packets into one tunnel, and what comes back."""

    def __init__(self, path: str, context: TunnelContext) -> None:
        self.sock, self.answer = dial(path, context)
        self.sock.settimeout(PATIENCE_S)
        self.head = bytes(10 if context.offload else 0)
        self.addresses = {6 if ":" in text else 4: text for text in context.addresses}

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.sock.send(self.head + packet)

    def receive(self) -> bytes:
        """The next packet, bare."""
        datagram = self.sock.recv(70_000)
        assert datagram, "the proxy hung up"
        return datagram[len(self.head) :]

    def packet(self) -> Packet:
        return decode(self.receive())

    def network(self, version: int, dst: str | None = None) -> Packet:
        return network(version, self.addresses[version], dst or ORIGIN[version])

    def segment(
        self,
        version: int,
        sport: int,
        dport: int,
        flags: str,
        *,
        dst: str | None = None,
        payload: bytes = b"",
        **fields: Any,
    ) -> bytes:
        return bytes(self.network(version, dst) / TCP(sport=sport, dport=dport, flags=flags, **fields) / Raw(payload))

    def connect(self, version: int, sport: int, dport: int, *, seq: int = 1000) -> int:
        """A handshake; the sequence number of the first byte from the other side."""
        self.send(self.segment(version, sport, dport, "S", seq=seq, options=[("MSS", 1460)]))
        answer = self.packet()[TCP]
        assert (answer.flags, answer.ack, answer.sport, answer.dport) == ("SA", seq + 1, dport, sport)
        self.send(self.segment(version, sport, dport, "A", seq=seq + 1, ack=answer.seq + 1))
        return int(answer.seq) + 1

    def close(self) -> None:
        self.sock.close()


class Stage:
    """Two namespaces and a proxy. `edge` is 10.50.0.1 and fd00:50::1, `origin` 10.50.0.10 and fd00:50::10."""

    def __init__(self, directory: str, configuration: str = CONFIGURATION, wrapper: tuple[str, ...] = ()) -> None:
        """`wrapper`: the words of a command that starts the proxy, such as prlimit(1)."""
        self.directory, self.configuration, self.wrapper = directory, configuration, wrapper
        self.path = os.path.join(directory, "ramp.sock")
        self.edge, self.origin = Namespace(), Namespace()
        connect(self.edge, self.origin, ["10.50.0.1/24", "fd00:50::1/64"], [f"{ORIGIN[4]}/24", f"{ORIGIN[6]}/64"])
        for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.origin.run(set_sysctl, name, 1)
        self._void = self.origin.run(open_tun, "void", offload=False)
        self.origin.run(bring_up, "void", addresses=["10.66.0.1/24"])
        for prefix, gateway in (("10.77.0.0/16", ORIGIN[4]), ("fd00:77::/32", ORIGIN[6]), ("10.66.0.0/24", ORIGIN[4])):
            route(self.edge, prefix, gateway)
        self._numbers, self._ports = itertools.count(2), itertools.count(20_000)
        self._closing = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        """Start a proxy and wait until it serves."""
        file = os.path.join(self.directory, "proxy.yaml")
        Path(file).write_text(self.configuration)
        with open(os.path.join(self.directory, "proxy.log"), "ab") as log:
            self.process = self.edge.run(
                subprocess.Popen,
                [*self.wrapper, sys.executable, "-m", "proxy", file],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self.control = ControlClient(os.path.join(self.directory, "control.sock"))
        until(lambda: self._is_serving() or self.process.poll() is not None, START_S)
        assert self.process.poll() is None, self.log

    def _is_serving(self) -> bool:
        """Whether its control API answers, which it opens last."""
        try:
            return self.status.pid == self.process.pid
        except ControlError:
            return False

    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        self._closing.close()
        if self.process.poll() is None:
            self.process.terminate()
        return int(self.process.wait(PATIENCE_S))

    def close(self) -> None:
        code = self.stop()
        for namespace in (self.edge, self.origin):
            namespace.close()
        os.close(self._void)
        assert code == 0, self.log
        assert "Traceback" not in self.log, self.log

    @property
    def log(self) -> str:
        return Path(self.directory, "proxy.log").read_text()

    @property
    def status(self) -> Status:
        return self.control.status()

    def context(self, tenant: str = "acme", **fields: Any) -> TunnelContext:
        """Of a tunnel with addresses that nobody else has."""
        number = next(self._numbers)
        addresses = [f"100.96.{number >> 8}.{number & 255}", f"fd00:96::{number:x}"]
        token = "secret" if tenant == "globex" else None
        return TunnelContext(**{"tenant": tenant, "addresses": addresses, "token": token, **fields})

    def client(self, tenant: str = "acme", *, offload: bool = False, **fields: Any) -> Client:
        client = Client(self.path, self.context(tenant, offload="virtio-net" if offload else None, **fields))
        self._closing.callback(client.close)
        return client

    def laptop(self, *, offload: bool = False, tenant: str = "acme") -> Laptop:
        laptop = Laptop(self.path, self.context(tenant, offload="virtio-net" if offload else None))
        self._closing.callback(laptop.close)
        return laptop

    def listen(
        self, version: int = 4, port: int = 0, *, backlog: int = 16, kind: int = socket.SOCK_STREAM
    ) -> socket.socket:
        """A socket of the origin's."""
        port = port or next(self._ports)  # each once: tests find their flows by it
        sock = self.origin.run(socket.socket, socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        self._closing.callback(sock.close)
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ORIGIN[version], port))
        if kind == socket.SOCK_STREAM:
            sock.listen(backlog)
        return sock

    def accept(self, listener: socket.socket) -> socket.socket:
        sock, _ = listener.accept()
        sock.settimeout(4 * PATIENCE_S)  # for all that one sendall() sends
        self._closing.callback(sock.close)
        return sock

    def after_test(self) -> None:
        """Close what the test opened."""
        self._closing.close()

    def ended(self, **wanted: Any) -> list[Any]:
        """The records of ended flows with these fields."""
        answer = self.control.flows([("all_tenants", "true"), ("scope", "past"), ("limit", "1000")])
        return [record for record in answer.items if all(getattr(record, k) == v for k, v in wanted.items())]


S = TypeVar("S", bound=Stage)


@contextlib.contextmanager
def staged(kind: type[S] = Stage, **options: Any) -> Iterator[S]:  # type: ignore[assignment]
    """A stage of this kind, closed at the end: the proxy must end well then."""
    with tempfile.TemporaryDirectory() as directory:
        stage = kind(directory, **options)
        try:
            yield stage
        finally:
            stage.close()
