"""A client, an edge and an origin: the edge is a plain Linux router, or runs a proxy whose off-ramp is the kernel.

client 10.1.0.2 --- in1: 10.1.0.1 edge 10.2.0.1 :out ------- o1: 10.2.0.2 origin       10.77.0.0/16 is unreachable there
        fd01::2          fd01::1      fd02::1                    fd02::2               10.66.0.0/24 is silent
   or a tunnel                edge 10.3.0.1 :small ----- o2: 10.3.0.2 origin       MTU 1300
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.context import TunnelContext
from proxy.control.client import ControlClient, ControlError
from proxy.device.interface import bring_up, set_sysctl
from proxy.device.tun import open_tun
from proxy.kernel.conntrack import Conntrack
from tests.loops import open_descriptors
from tests.netns import Laptop, Namespace
from tests.packets import decode
from tests.running import ROOT, START_S, until

KINDS = ("interface", "connected", "offload")
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
CLIENT, GATEWAY = {4: "10.1.0.2", 6: "fd01::2"}, {4: "10.1.0.1", 6: "fd01::1"}
EDGE, ORIGIN = {4: "10.2.0.1", 6: "fd02::1"}, {4: "10.2.0.2", 6: "fd02::2"}
SECOND = {4: "10.2.0.3", 6: "fd02::3"}  # the origin's other address
SMALL = {4: "10.3.0.2", 6: "fd03::2"}  # the origin, behind a link of MTU 1300
UNREACHABLE = {4: "10.77.0.9", 6: "fd77::9"}  # the origin's kernel says so
SILENT = {4: "10.66.0.9", 6: "fd66::9"}
SMALL_MTU = 1300
MARK = 0x6F78_0000
ROUTER = """
table inet masquerading {
  chain forward { type filter hook forward priority filter; ct state invalid drop; }
  chain leaving { type nat hook postrouting priority srcnat; oifname { "out", "small" } masquerade; }
}
"""
REJECTING = """
table inet rejecting {
  chain forward {
    type filter hook forward priority filter;
    ip daddr 10.77.0.0/16 reject with icmp type host-unreachable
    ip6 daddr fd77::/32 reject with icmpv6 type addr-unreachable
  }
}
"""
DIES_WITH_NAMESPACE = ("setpriv", "--pdeathsig", "KILL")  # also when the test itself is killed
VOLATILE = ("nf_conntrack_count", "nf_conntrack_buckets", "/neigh/", "random", "stat", "ipfrag_secret", "flush")


def needs(program: str) -> Any:
    """A mark for tests that drive it."""
    found = shutil.which(program, path="/usr/bin:/usr/sbin:/bin:/sbin")
    return pytest.mark.skipif(found is None, reason=f"{program} is not installed")


def ip(namespace: Namespace, batch: str) -> None:
    """Lines of ip(8)."""
    for line in batch.strip().splitlines():
        done = namespace.run(subprocess.run, ["ip", *line.split()], capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"


def nft(namespace: Namespace, text: str) -> None:
    """A transaction of nft(8)."""
    done = namespace.run(subprocess.run, ["nft", "-f", "-"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def link(
    near: Namespace, name: str, addresses: list[str], far: Namespace, far_name: str, far_addresses: list[str]
) -> None:
    """A pair of interfaces with these addresses."""
    place = f"/proc/{os.getpid()}/task/{far.run(threading.get_native_id)}/ns/net"
    ip(near, f"link add {name} type veth peer name {far_name} netns {place}\nlink set {name} up")
    ip(far, f"link set {far_name} up")
    for namespace, device, own in ((near, name, addresses), (far, far_name, far_addresses)):
        for text in own:
            ip(namespace, f"addr add {text} dev {device}" + (" nodad" if ":" in text else ""))


class Net:
    """An edge and an origin; clients are added. Everything that is made by methods is closed by `tidy` or `close`."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()  # for all tests
        self._test = contextlib.ExitStack()  # for one
        self.proxy: Proxy | None = None
        self.directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kernel-"))
        Path(self.directory).chmod(0o755)  # servers have no rights
        self.edge, self.origin = self.namespace(), self.namespace()
        out = [f"{EDGE[4]}/24", f"{EDGE[6]}/64"]
        far = [f"{ORIGIN[4]}/24", f"{SECOND[4]}/24", f"{ORIGIN[6]}/64", f"{SECOND[6]}/64"]
        link(self.edge, "out", out, self.origin, "o1", far)
        near_small, far_small = ["10.3.0.1/24", "fd03::1/64"], [f"{SMALL[4]}/24", f"{SMALL[6]}/64"]
        link(self.edge, "small", near_small, self.origin, "o2", far_small)
        ip(self.edge, f"link set small mtu {SMALL_MTU}")
        ip(self.origin, f"link set o2 mtu {SMALL_MTU}")
        for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.origin.run(set_sysctl, name, 1)
        self.origin.run(set_sysctl, "net/ipv4/tcp_invalid_ratelimit", 0)
        ip(self.edge, f"route add 10.77.0.0/16 via {ORIGIN[4]}\n-6 route add fd77::/32 via {ORIGIN[6]}")
        void = self.origin.run(open_tun, "void", offload=False)
        self._stack.callback(os.close, void)
        self.origin.run(bring_up, "void", addresses=["10.66.0.1/24", "fd66::1/64"])
        ip(self.origin, "route add 10.77.0.0/16 dev void\n-6 route add fd77::/32 dev void")
        nft(self.origin, REJECTING)
        ip(self.edge, f"route add 10.66.0.0/24 via {ORIGIN[4]}\n-6 route add fd66::/64 via {ORIGIN[6]}")

    def namespace(self) -> Namespace:
        """A new one, that answers as often as it is asked."""
        made = Namespace()
        self._stack.callback(made.close)
        made.run(set_sysctl, "net/ipv4/icmp_ratelimit", 0)
        made.run(set_sysctl, "net/ipv4/icmp_msgs_per_sec", 100_000)
        made.run(set_sysctl, "net/ipv4/icmp_msgs_burst", 100_000)
        made.run(set_sysctl, "net/ipv6/icmp/ratelimit", 0)
        return made

    def client_at(self, interface: str, **addresses: list[str]) -> Namespace:
        """A client that the edge sees by this interface."""
        client = self.namespace()
        near = addresses.get("gateway", [f"{GATEWAY[4]}/24", f"{GATEWAY[6]}/64"])
        own = addresses.get("own", [f"{CLIENT[4]}/24", f"{CLIENT[6]}/64"])
        link(self.edge, interface, near, client, "lan0", own)
        for text in near:
            ip(client, f"{'-6 ' if ':' in text else ''}route add default via {text.partition('/')[0]}")
        return client

    def forward(self) -> None:
        """Let the edge be a router."""
        for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.edge.run(set_sysctl, name, 1)

    def tidy(self) -> None:
        """Close what a test has opened."""
        self._test.close()

    def close(self) -> None:
        self._test.close()
        try:
            if self.proxy is not None:
                self.proxy.close()
        finally:
            self._stack.close()

    @contextlib.contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """What was made so far is closed if something fails inside."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            yield
            undo.pop_all()

    def keep(self, sock: Any) -> Any:
        """It is closed after the test."""
        self._test.callback(sock.close)
        return sock

    def sock(self, namespace: Namespace, version: int, kind: int, protocol: int = 0) -> Any:
        sock = self.keep(namespace.run(socket.socket, FAMILIES[version], kind, protocol))
        sock.settimeout(20)
        return sock

    def listen(self, version: int, port: int = 0, kind: int = socket.SOCK_STREAM, address: str | None = None) -> Any:
        """A socket of the origin's."""
        sock = self.sock(self.origin, version, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address or ORIGIN[version], port))
        if kind == socket.SOCK_STREAM:
            sock.listen(64)
        return sock

    def accept(self, listener: Any) -> Any:
        sock, self.seen = listener.accept()
        sock.settimeout(20)
        return self.keep(sock)

    def sniffer(self, namespace: Namespace, device: str) -> Sniffer:
        return self.keep(Sniffer(namespace, device))

    def program(self, namespace: Namespace, *words: object, code: int | None = 0, timeout_s: float = 90) -> str:
        """What a program printed."""
        done = namespace.run(
            subprocess.run, [*map(str, words)], capture_output=True, text=True, timeout=timeout_s, cwd=self.directory
        )
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def serve(self, port: int, *words: object, kind: str = "tcp") -> None:
        """Start a server at the origin; it listens on return."""
        with open(Path(self.directory, "server.log"), "ab") as log:
            server = self.origin.run(subprocess.Popen, [*map(str, words)], stdout=log, stderr=log)
        self._stack.callback(_end, server)
        until(lambda: self.origin.run(_is_open, kind, port))


class Scene(Net):
    """One client by one kind of way. `tenant`: more words of its settings, as YAML in one line."""

    def __init__(self, kind: str, tenant: str = "", more: str = "", wrapper: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.kind = kind
        with self.undone_on_failure():
            self._build(tenant, more, wrapper)

    def _build(self, tenant: str, more: str, wrapper: tuple[str, ...]) -> None:
        kind = self.kind
        if kind in ("router", "interface"):
            self.client = self.client_at("in1")
            self.device = "lan0"
        if kind == "router":
            self.forward()
            nft(self.edge, ROUTER)
            return
        ramp = "{kind: interface, interfaces: [in1], tenant: acme}"
        if kind != "interface":
            ramp = "{kind: connected, path: ramp.sock}"
        words = f"node: edge\nofframp: kernel\ntenants:\n  acme: {{{tenant}}}\nonramps:\n  - {ramp}\n{more}"
        self.proxy = Proxy(self.directory, self.edge, words, wrapper)
        until(lambda: are_links_settled(self.edge))
        self.before = state_of(self.edge)
        self.proxy.start()
        if kind != "interface":
            self.client = self.tunnel(kind == "offload")
            self.device = "warp"

    def tunnel(self, offload: bool, **context: Any) -> Laptop:
        """A client of the connected on-ramp."""
        assert self.proxy is not None
        client = connect_tunnel(self.proxy.file("ramp.sock"), offload=offload, **context)
        self._stack.callback(client.close)
        return client

    def connect(self, version: int, port: int, *, source_port: int = 0, address: str | None = None) -> Any:
        """A connection of the client's."""
        sock = self.sock(self.client, version, socket.SOCK_STREAM)
        if source_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((CLIENT[version], source_port))
        sock.connect((address or ORIGIN[version], port))
        return sock

    def pair(self, version: int, *, address: str | None = None) -> tuple[Any, Any]:
        """Both ends of a connection from client to origin."""
        listener = self.listen(version, address=address)
        client = self.connect(version, listener.getsockname()[1], address=address)
        return client, self.accept(listener)

    def run(self, *words: object, code: int | None = 0, timeout_s: float = 90) -> str:
        """What a program printed at the client."""
        return self.program(self.client, *words, code=code, timeout_s=timeout_s)


def connect_tunnel(path: str, *, offload: bool, mtu: int = 1500, **context: Any) -> Laptop:
    """A client whose kernel sends everything into a connected tunnel."""
    fields = {"tenant": "acme", "addresses": [CLIENT[4], CLIENT[6]], "mtu": mtu, **context}
    return Laptop(path, TunnelContext(**fields, offload="virtio-net" if offload else None))


class Proxy:
    """The process under test, in a namespace."""

    def __init__(self, directory: str, namespace: Namespace, configuration: str, wrapper: tuple[str, ...] = ()) -> None:
        """`wrapper`: the words of a command that starts it."""
        self.directory, self.namespace, self.configuration, self.wrapper = directory, namespace, configuration, wrapper
        self.process: subprocess.Popen[bytes] | None = None
        self.control = ControlClient(self.file("control.sock"))

    def file(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def start(self) -> None:
        """On return it serves."""
        self.launch()
        assert self.process is not None
        until(lambda: self._is_serving() or self.process.poll() is not None, START_S)
        assert self.process.poll() is None, self.log

    def launch(self) -> subprocess.Popen[bytes]:
        """It may serve, or end."""
        Path(self.file("proxy.yaml")).write_text(self.configuration)
        words = [*DIES_WITH_NAMESPACE, *self.wrapper, sys.executable, "-m", "proxy", self.file("proxy.yaml")]
        with open(self.file("proxy.log"), "ab") as log:
            self.process = self.namespace.run(subprocess.Popen, words, cwd=ROOT, stdout=log, stderr=log)
        return self.process

    def refusal(self) -> tuple[int, list[str]]:
        """Start one that must not serve: its exit code, and what it says of that."""
        before = len(self.log)
        code = self.launch().wait(20)
        return code, [line for line in self.log[before:].splitlines() if " INFO " not in line]

    def stop(self) -> int:
        """Its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return int(self.process.wait(20))
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)

    def close(self) -> None:
        if self.process is None:
            return
        code = self.stop()
        assert code in (0, -9), self.log
        assert "Traceback" not in self.log, self.log

    @property
    def log(self) -> str:
        path = Path(self.file("proxy.log"))
        return path.read_text() if path.exists() else ""

    def live(self, **wanted: Any) -> list[Any]:
        return self._flows("live", wanted)

    def ended(self, **wanted: Any) -> list[Any]:
        return self._flows("past", wanted)

    def drops(self, reason: str, tenant: str | None = None) -> int:
        """How many packets."""
        status = self.control.status()
        return int((status if tenant is None else status.tenants[tenant]).drops.get(reason, 0))

    def _flows(self, scope: str, wanted: dict[str, Any]) -> list[Any]:
        answer = self.control.flows([("all_tenants", "true"), ("scope", scope), ("limit", "10000")])
        return [record for record in answer.items if all(getattr(record, k) == v for k, v in wanted.items())]

    def _is_serving(self) -> bool:
        try:
            return self.process is not None and self.control.status().pid == self.process.pid
        except ControlError:
            return False


class Sniffer:
    """Every IP packet that a device moves, from its IP header on."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        self._sock = namespace.run(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._sock.bind((device, ETH_P_ALL))
        self._sock.setblocking(False)

    def read(self) -> list[tuple[bool, bytes]]:
        """Whether it arrived here, and the packet, of all since the last call."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, (_, protocol, kind, *_) = self._sock.recvfrom(70_000)
                if protocol in (ETH_P_IP, ETH_P_IPV6):
                    found.append((kind != socket.PACKET_OUTGOING, data))
        return found

    def arrived(self, *protocols: int) -> list[Any]:
        """What came since the last look, as scapy reads it: of these IP protocols, or of all."""
        found = [data for is_in, data in self.read() if is_in and data]
        return [decode(data) for data in found if not protocols or data[9 if data[0] >> 4 == 4 else 6] in protocols]

    def until(self, matches: Callable[[Any], bool]) -> Any:
        """The first packet that arrived and matches."""
        return until(lambda: next((packet for packet in self.arrived() if matches(packet)), None))

    def close(self) -> None:
        self._sock.close()


def echo(net: Net, version: int, address: str | None = None) -> tuple[str, int]:
    """A UDP server at the origin that answers what it is sent, for one test: its address."""
    server = net.listen(version, kind=socket.SOCK_DGRAM, address=address)
    stop_read, stop_write = os.pipe()

    def answer() -> None:
        poller = select.poll()
        for fd in (server.fileno(), stop_read):
            poller.register(fd, select.POLLIN)
        while stop_read not in [fd for fd, _ in poller.poll()]:
            data, sender = server.recvfrom(70_000)
            with contextlib.suppress(OSError):
                server.sendto(data, sender)

    thread = threading.Thread(target=answer)
    thread.start()

    def end() -> None:
        os.write(stop_write, b"x")
        thread.join()
        os.close(stop_read)
        os.close(stop_write)

    net._test.callback(end)
    return server.getsockname()[:2]


def ask(sock: Any, address: tuple[str, int], word: bytes = b"canary") -> bytes:
    """What an echo answers; asked again until it does."""
    sock.settimeout(0.3)

    def attempt() -> bytes:
        sock.sendto(word, address)
        try:
            return bytes(sock.recv(70_000))
        except (TimeoutError, ConnectionError, OSError):
            return b""

    return bytes(until(attempt))


def reset(sock: Any) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def unsent(sock: Any) -> int:
    """Bytes that the other side has not acknowledged."""
    size = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, size)
    return size[0]


def transfer(sender: Any, receiver: Any, size: int) -> None:
    """So many bytes; they arrive."""
    sending = threading.Thread(target=sender.sendall, args=(bytes(size),))
    sending.start()
    got = 0
    while got < size:
        data = receiver.recv(1 << 17)
        assert data, "the other side is gone"
        got += len(data)
    sending.join()


def read_all(sock: Any) -> tuple[int, str]:
    """How many bytes there were, and how it ended."""
    size = 0
    while True:
        try:
            data = sock.recv(1 << 17)
        except OSError as error:
            return size, type(error).__name__
        if not data:
            return size, "end"
        size += len(data)


def entries(namespace: Namespace, mark: int = MARK) -> list[Any]:
    """Conntrack's, that have a mark of ours."""

    def dump() -> list[Any]:
        table = Conntrack()
        try:
            return list(table.dump(mark, 0xFFFF_0000))
        finally:
            table.close()

    return list(namespace.run(dump))


def are_links_settled(namespace: Namespace) -> bool:
    """Whether the kernel has finished what it does later on when links come up: the routes of addresses and links."""

    def lines(words: str) -> list[str]:
        return namespace.run(subprocess.check_output, words.split(), text=True).splitlines()

    links = [line.split()[1] for line in lines("ip -brief link") if "LOWER_UP" in line]
    return {"UP", "UNKNOWN"}.issuperset(links) and not lines("ip -6 address show tentative")


def state_of(namespace: Namespace) -> dict[str, str]:
    """What a proxy could leave behind in a namespace."""
    commands = (
        "nft list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all",
        "ip -brief link",
    )  # fmt: skip
    found = {}
    for words in commands:
        done = namespace.run(subprocess.run, words.split(), capture_output=True, text=True, check=True)
        found[words] = "\n".join(sorted(line for line in done.stdout.splitlines()))
    found["conntrack"] = repr(entries(namespace))
    return found | namespace.run(_sysctls)


def _sysctls() -> dict[str, str]:
    found = {}
    for path in sorted(Path("/proc/sys/net").rglob("*")):
        if path.is_file() and not any(word in str(path) for word in VOLATILE):
            with contextlib.suppress(OSError):
                found[str(path)] = path.read_text()
    return found


def _is_open(kind: str, port: int) -> bool:
    tables = "".join(Path(f"/proc/thread-self/net/{kind}{six}").read_text() for six in ("", "6"))
    states = [line.split()[1:4] for line in tables.splitlines()]
    wanted = "0A" if kind == "tcp" else "07"
    return any(local.endswith(f":{port:04X}") and state == wanted for local, _, state in states)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(15)


@contextlib.contextmanager
def scene(kind: str, **options: Any) -> Iterator[Scene]:
    """It leaves no descriptor behind."""
    before = open_descriptors()
    made = Scene(kind, **options)
    try:
        yield made
    finally:
        made.close()
    assert open_descriptors() == before


@contextlib.contextmanager
def net() -> Iterator[Net]:
    """The same, without client and proxy."""
    before = open_descriptors()
    made = Net()
    try:
        yield made
    finally:
        made.close()
    assert open_descriptors() == before
