"""A client, a router and an origin, each in a namespace of its own; the router tracks connections.

client 10.1.0.2 --- 10.1.0.1 router 10.2.0.1 --- 10.2.0.2 origin
        fd01::2 --- fd01::1         fd02::1 --- fd02::2
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from proxy.device.interface import set_sysctl
from tests.loops import PATIENCE_S, open_descriptors
from tests.netns import FAR, Namespace, connect, route

CLIENT, ORIGIN = {4: "10.1.0.2", 6: "fd01::2"}, {4: "10.2.0.2", 6: "fd02::2"}
PUBLIC = {4: "10.2.0.9", 6: "fd02::9"}  # nobody's: what the client's address is translated into
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Routed:
    """Sockets that are made here are closed with it."""

    def __init__(self, rules: str) -> None:
        self.client, self.router, self.origin = (Namespace() for _ in range(3))
        self._sockets: list[socket.socket] = []
        connect(self.client, self.router, ["10.1.0.2/24", "fd01::2/64"], ["10.1.0.1/24", "fd01::1/64"])
        connect(self.router, self.origin, ["10.2.0.1/24", "fd02::1/64"], ["10.2.0.2/24", "fd02::2/64"])
        route(self.client, "10.2.0.0/24", "10.1.0.1")
        route(self.client, "fd02::/64", "fd01::1")
        route(self.origin, "10.1.0.0/24", "10.2.0.1", FAR)
        route(self.origin, "fd01::/64", "fd02::1", FAR)
        for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/netfilter/nf_conntrack_acct"):
            assert self.router.run(set_sysctl, name, 1)
        self.load(rules)

    def load(self, rules: str) -> None:
        """Give the router these rules of nftables."""
        self.router.run(subprocess.run, ["nft", "-f", "-"], input=rules.encode(), check=True)

    def socket(self, namespace: Namespace, version: int, kind: int, protocol: int = 0) -> Any:
        sock = namespace.run(socket.socket, FAMILIES[version], kind, protocol)
        sock.settimeout(PATIENCE_S)
        self._sockets.append(sock)
        return sock

    def serve(self, version: int, kind: int, port: int) -> Any:
        """A socket of the origin's."""
        sock = self.socket(self.origin, version, kind)
        sock.bind((ORIGIN[version], port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        return sock

    def dial(self, version: int, kind: int, port: int, source_port: int = 0) -> Any:
        """A socket of the client's that is connected with the origin."""
        sock = self.socket(self.client, version, kind)
        sock.bind((CLIENT[version], source_port))
        sock.connect((ORIGIN[version], port))
        return sock

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        for namespace in (self.client, self.router, self.origin):
            namespace.close()


@contextmanager
def routed(rules: str) -> Iterator[Routed]:
    """The three, that leave no descriptor behind."""
    before = open_descriptors()
    net = Routed(rules)
    try:
        yield net
    finally:
        net.close()
    assert open_descriptors() == before


def key(version: int, source: str, destination: str, *numbers: int) -> bytes:
    """As it stands in packets: ports, or an identifier, or nothing behind the addresses."""
    packed = [socket.inet_pton(FAMILIES[version], text) for text in (source, destination)]
    return b"".join(packed) + b"".join(number.to_bytes(2, "big") for number in numbers)


def until(condition: Callable[[], Any]) -> Any:
    """What `condition` says as soon as that is true; AssertionError when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, "still not so"
    return answer
