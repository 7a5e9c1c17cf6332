"""Network namespaces of a test's own: each is one thread that lives in it, and is gone with it. Needs root."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from oxyctl.net.netlink import Veth, add_address, add_route, new_bridge, new_veth, run, set_link
from proxy.context import TunnelContext
from proxy.device.interface import bring_up, set_sysctl
from proxy.device.namespaces import CLONE_NEWNET, current_network, unshare
from proxy.device.seqpacket import dial
from proxy.device.tun import open_tun

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces in this process: needs root")

BRIDGE, PORT, FAR = 10, 11, 12  # interface indices


class Namespace:
    """`run` calls a function in it; sockets and processes that are made there stay there."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=lambda: unshare(CLONE_NEWNET))
        self.run(self._prepare)

    def run(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self._thread.submit(function, *arguments, **named).result()

    def close(self) -> None:
        self._thread.shutdown()

    @staticmethod
    def _prepare() -> None:
        set_sysctl("net/ipv6/conf/default/accept_dad", 0)
        set_sysctl("net/ipv4/ping_group_range", "0 0")
        bring_up("lo")


def connect(near: Namespace, far: Namespace, near_addresses: list[str], far_addresses: list[str]) -> None:
    """A link between two namespaces: `lan` in the near one, `lan0` in the far one."""
    fd = far.run(current_network)
    try:
        veth = Veth("port", PORT, BRIDGE, "lan0", FAR, bytes.fromhex("020000000002"))
        near.run(run, [new_bridge("lan", BRIDGE), new_veth(veth, fd)])
    finally:
        os.close(fd)
    near.run(run, [add_address(BRIDGE, ip_interface(text)) for text in near_addresses])
    far.run(run, [set_link(FAR), *(add_address(FAR, ip_interface(text)) for text in far_addresses)])


def route(namespace: Namespace, prefix: str, gateway: str, index: int = BRIDGE) -> None:
    namespace.run(run, [add_route(ip_network(prefix), index, gateway)])


class Laptop(Namespace):
    """A client whose kernel sends everything into a tunnel: sockets made here go through the proxy."""

    def __init__(self, path: str, context: TunnelContext) -> None:
        super().__init__()
        sock, _ = dial(path, context)
        self.attach(sock, context.addresses, mtu=context.mtu, offload=context.offload is not None)

    def attach(self, sock: Any, addresses: list[str], *, mtu: int, offload: bool) -> None:
        """Move packets between `sock` and a device with these addresses, which everything is routed into."""
        self.sock = sock
        self.addresses = {6 if ":" in text else 4: text for text in addresses}
        self.tun = self.run(open_tun, "warp", offload=offload)
        prefix = {4: 32, 6: 128}
        interfaces = [f"{text}/{prefix[6 if ':' in text else 4]}" for text in addresses]
        self.run(bring_up, "warp", mtu=mtu, queue=1000, addresses=interfaces)
        index = self.run(socket.if_nametoindex, "warp")
        self.run(run, [add_route(ip_network(prefix), index) for prefix in ("0.0.0.0/0", "::/0")])
        self._sockets: list[socket.socket] = []
        self._stop_read, self._stop_write = os.pipe()
        self._pump = threading.Thread(target=self._move, daemon=True)
        self._pump.start()

    def tcp(self, address: str, port: int, timeout_s: float = 60) -> socket.socket:
        """A connection from here, as a program would make it."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self.run(socket.socket, family, socket.SOCK_STREAM)
        self._sockets.append(sock)
        sock.settimeout(timeout_s)
        sock.connect((address, port))
        return sock

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        os.write(self._stop_write, b"x")
        self._pump.join()
        for fd in (self._stop_read, self._stop_write, self.tun):
            os.close(fd)
        self.sock.close()
        super().close()

    def _move(self) -> None:
        poller = select.poll()
        for fd in (self.sock.fileno(), self.tun, self._stop_read):
            poller.register(fd, select.POLLIN)
        self.sock.setblocking(True)
        while True:
            for fd, _ in poller.poll():
                if fd == self._stop_read:
                    return
                try:
                    if fd == self.tun:
                        self.sock.send(os.read(self.tun, 70_000))
                    else:
                        os.write(self.tun, self.sock.recv(70_000))
                except (BlockingIOError, BrokenPipeError):
                    continue
                except OSError:  # the proxy hung up, or the kernel refused a packet
                    if not _is_alive(self.sock):
                        return


def _is_alive(sock: socket.socket) -> bool:
    poller = select.poll()
    poller.register(sock, 0)
    return not poller.poll(0)
