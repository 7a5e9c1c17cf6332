"""What tests/device/test_tun.py runs, each in a new network namespace: `python -m tests.device.tun_scenarios NAME`."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import sys

from proxy.device.interface import bring_up
from proxy.device.tun import has_udp_offload, open_tun
from proxy.wire.virtio import HEADER_BYTES, NEEDS_CSUM, NO_OFFLOAD, gso_size

LOCAL, FAR = "10.66.0.1", "10.66.0.2"
UDP, TCP = 17, 6


def read_packet(fd: int, protocol: int, skip: int = 0) -> bytes:
    """The next packet with an IPv4 header of that protocol; the kernel sends others of its own accord."""
    while True:
        assert select.select([fd], [], [], 10)[0], "no packet"
        packet = os.read(fd, 1 << 17)
        if packet[skip] >> 4 == 4 and packet[skip + 9] == protocol:
            return packet


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_to_us(port: int, payload: bytes) -> bytes:
    """An IPv4 UDP packet from FAR to LOCAL, without a UDP checksum (RFC 768)."""
    addresses = socket.inet_aton(FAR) + socket.inet_aton(LOCAL)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, UDP, 0) + addresses
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return header + struct.pack("!HHHH", 9, port, 8 + len(payload), 0) + payload


def plain() -> None:
    """Bare packets cross in both directions."""
    fd = open_tun("tun0", offload=False)
    assert os.get_blocking(fd) is False
    assert os.get_inheritable(fd) is False
    bring_up("tun0", mtu=1280, addresses=[f"{LOCAL}/24"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOCAL, 0))
        sock.settimeout(10)
        sock.sendto(b"out", (FAR, 9))
        packet = read_packet(fd, UDP)
        assert packet[12:20] == socket.inet_aton(LOCAL) + socket.inet_aton(FAR)
        assert packet[28:] == b"out"
        os.write(fd, udp_to_us(sock.getsockname()[1], b"in"))
        assert sock.recvfrom(10) == (b"in", (FAR, 9))


def offload() -> None:
    """Packets carry a virtio-net header, and TCP comes as one super-packet with a partial checksum."""
    fd = open_tun("tun0", offload=True)
    bring_up("tun0", mtu=1280, addresses=[f"{LOCAL}/24"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOCAL, 0))
        sock.settimeout(10)
        os.write(fd, NO_OFFLOAD + udp_to_us(sock.getsockname()[1], b"in"))
        assert sock.recv(10) == b"in"
    with socket.socket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex((FAR, 80)) == errno.EINPROGRESS
        syn = read_packet(fd, TCP, HEADER_BYTES)
        assert syn[0] & NEEDS_CSUM
        assert gso_size(syn) == 0
        os.write(fd, NO_OFFLOAD + syn_ack(syn[HEADER_BYTES:]))
        assert select.select([], [sock], [], 10)[1]
        assert sock.send(bytes(20_000)) == 20_000
        sizes = []
        while sum(sizes) < 10_000:
            packet = read_packet(fd, TCP, HEADER_BYTES)
            data = len(packet) - HEADER_BYTES - 20 - (packet[HEADER_BYTES + 32] >> 4) * 4
            sizes += [data] if data else []
            assert gso_size(packet) == 1240 or data <= 1240
        assert max(sizes) > 1280


def syn_ack(syn: bytes) -> bytes:
    """The answer of a peer with MSS 1240 and a large window to a SYN in an IPv4 packet without options."""
    ports = syn[22:24] + syn[20:22]
    (sequence,) = struct.unpack("!I", syn[24:28])
    segment = ports + struct.pack("!IIBBHHH", 1, sequence + 1, 0x60, 0x12, 65_535, 0, 0) + b"\x02\x04\x04\xd8"
    addresses = syn[16:20] + syn[12:16]
    pseudo = addresses + struct.pack("!HH", TCP, len(segment))
    segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, TCP, 0) + addresses
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + segment


def udp_offload_is_told() -> None:
    """Whether super-datagrams are possible is found by asking, and asking leaves the device as it was."""
    fd = open_tun("tun0", offload=True, udp_offload=False)
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    assert has_udp_offload(fd) == (release >= (6, 2))


def gone_with_its_descriptor() -> None:
    """The device lives as long as its descriptor."""
    fd = open_tun("tun0", offload=False)
    assert "tun0" in dict(socket.if_nameindex()).values()
    os.close(fd)
    assert "tun0" not in dict(socket.if_nameindex()).values()


def taken_name() -> None:
    """A name that is taken is an OSError, and no descriptor is lost."""
    fd = open_tun("tun0", offload=False)
    before = len(os.listdir("/proc/self/fd"))
    try:
        open_tun("tun0", offload=True)
    except OSError as error:
        assert error.errno in (errno.EBUSY, errno.EINVAL)  # noqa: PT017
    else:
        raise AssertionError("opened twice")
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


SCENARIOS = (plain, offload, udp_offload_is_told, gone_with_its_descriptor, taken_name)

if __name__ == "__main__":
    {scenario.__name__: scenario for scenario in SCENARIOS}[sys.argv[1]]()
    print("done")
