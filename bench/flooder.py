"""One client of a tunnel: floods with SYNs, begins idle UDP flows, or pings and measures. Prints JSON.

python flooder.py flood PATH TENANT ORIGIN RATE SECONDS
python flooder.py idle PATH TENANT ORIGIN RATE SECONDS    (RATE * SECONDS flows; they stay until standard input ends)
python flooder.py ping PATH TENANT ORIGIN RATE SECONDS
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from ipaddress import IPv4Address

from proxy.context import TunnelContext
from proxy.device.seqpacket import dial
from proxy.wire import icmp, ip, tcp, udp
from proxy.wire.checksum import checksum, pseudo_header_sum

PORT = 81
IDLE_PORTS = range(2000, 2020)  # ports of the origin where nothing listens
SOURCE_PORTS = 50_000  # source ports of the client for each of those
FLOODER, PINGER = "100.96.0.2", "100.97.0.2"
SLICE_S = 0.002  # interval of bursts of SYNs
PATIENCE_S = 2.0

_SYN = struct.Struct("!HHIIBBHHH")


def syns(source: bytes, origin: bytes, count: int) -> list[bytes]:
    """SYNs from this many ports, as raw packets."""
    packets = []
    for number in range(count):
        fields = 1024 + number, PORT, number * 65_537 % (1 << 32), 0, 5 << 4, tcp.SYN, 65_535
        total = checksum(_SYN.pack(*fields, 0, 0), pseudo_header_sum(source + origin, ip.TCP, 20))
        packets.append(ip.header(source, origin, ip.TCP, 20) + _SYN.pack(*fields, total, 0))
    return packets


def flood(path: str, tenant: str, origin: bytes, rate: float, seconds: float) -> dict[str, float]:
    """The number of SYNs sent, and of those lost because the tunnel's buffer was full, as on a congested link."""
    sock, _ = dial(path, TunnelContext(tenant=tenant, addresses=[FLOODER]))
    sock.setblocking(False)
    packets = syns(IPv4Address(FLOODER).packed, origin, 60_000)
    sent = lost = 0
    began = time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        for _ in range(int(elapsed * rate) - sent - lost):
            try:
                sock.send(packets[(sent + lost) % len(packets)])
                sent += 1
            except BlockingIOError:
                lost += 1
        _forget_answers(sock)
        select.select([], [], [], SLICE_S)
    return {"sent": sent, "lost": lost, "seconds": time.perf_counter() - began}


def idle(path: str, tenant: str, origin: bytes, rate: float, seconds: float) -> dict[str, float]:
    """Begin RATE * SECONDS flows of one datagram each, as fast as the tunnel accepts them; prints when all are sent."""
    sock, _ = dial(path, TunnelContext(tenant=tenant, addresses=[FLOODER]))
    sock.setblocking(True)
    source, began = IPv4Address(FLOODER).packed, time.perf_counter()
    flows = int(rate * seconds)
    for number in range(flows):
        ports = 1024 + number % SOURCE_PORTS, IDLE_PORTS[number // SOURCE_PORTS]
        message = udp.datagram(source + origin, *ports, bytes(32))
        sock.send(ip.header(source, origin, ip.UDP, len(message)) + message)
    print(json.dumps({"sent": flows, "seconds": time.perf_counter() - began}), flush=True)
    sys.stdin.read()
    return {}


def ping(path: str, tenant: str, origin: bytes, rate: float, seconds: float) -> dict[str, list[float]]:
    """Round trips in microseconds; one longer than PATIENCE_S is lost."""
    sock, _ = dial(path, TunnelContext(tenant=tenant, addresses=[PINGER]))
    sock.settimeout(PATIENCE_S)
    source, trips, lost = IPv4Address(PINGER).packed, [], 0
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            select.select([], [], [], wait)
        message = icmp.message(source + origin, icmp.ECHO_REQUEST, 0, 7 << 16 | number & 0xFFFF, bytes(56))
        at = time.perf_counter()
        try:
            sock.send(ip.header(source, origin, ip.ICMP, len(message)) + message)
            while icmp.echo_identity(sock.recv(2000), 20)[1] != number & 0xFFFF:
                pass
        except TimeoutError:
            lost += 1
            continue
        trips.append((time.perf_counter() - at) * 1e6)
    return {"trips_us": trips, "lost": [lost]}


def _forget_answers(sock: socket.socket) -> None:
    try:
        while sock.recv(2000):
            pass
    except BlockingIOError:
        pass


if __name__ == "__main__":
    role, path, tenant, origin, rate, seconds = sys.argv[1:]
    act = {"flood": flood, "idle": idle, "ping": ping}[role]
    print(json.dumps(act(path, tenant, IPv4Address(origin).packed, float(rate), float(seconds))))
