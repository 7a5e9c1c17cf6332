"""Sockets to origins on loopback: how they are made, and what their failures mean."""

from __future__ import annotations

import errno
import os
import select
import socket
from pathlib import Path

import pytest

from proxy.errors import DropReason
from proxy.offramps import sockets
from proxy.wire import icmp
from tests.packets import pack
from tests.stream.world import LOCALHOST, closed_port, listening

CAP_SYS_RESOURCE = 24
FAMILIES = pytest.mark.parametrize("version", [4, 6])


def wait(sock, events=select.POLLOUT):
    poller = select.poll()
    poller.register(sock, events)
    return poller.poll(5000)


@FAMILIES
def test_tcp_dial_connects_without_blocking(version):
    with listening(version) as origin:
        sock, failure = sockets.dial_tcp(pack(LOCALHOST[version]), origin.getsockname()[1])
        with sock:
            assert failure in (0, errno.EINPROGRESS)
            assert not sock.getblocking()
            wait(sock)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            sockets.keep_alive(sock)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sockets.local_address(sock) == LOCALHOST[version]
            assert not os.get_inheritable(sock.fileno())


@FAMILIES
def test_tcp_dial_to_a_closed_port_is_refused(version):
    sock, failure = sockets.dial_tcp(pack(LOCALHOST[version]), closed_port(version))
    with sock:
        if failure == errno.EINPROGRESS:
            wait(sock)
            failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert sockets.connect_failure(failure) == ("origin_refused", None)


FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def connected_udp(version, port):
    sock = sockets.open_udp(FAMILY[version], gro=False)
    sock.connect((LOCALHOST[version], port))
    return sock


def dial(kind, version, port, device):
    """A socket of this kind towards loopback."""
    address = pack(LOCALHOST[version])
    if kind == "tcp":
        return sockets.dial_tcp(address, port, device)[0]
    if kind == "udp":
        return sockets.open_udp(FAMILY[version], gro=False, device=device)
    try:
        return sockets.dial_echo(address, device)[0]
    except PermissionError:
        pytest.skip("echo sockets need CAP_NET_RAW or net.ipv4.ping_group_range")


@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "udp", "echo"])
def test_a_dial_may_be_bound_to_an_interface(kind, version):
    for device, bound in ((None, b""), ("lo", b"lo")):
        with listening(version) as origin, dial(kind, version, origin.getsockname()[1], device) as sock:
            found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert found.rstrip(b"\0") == bound


@FAMILIES
@pytest.mark.parametrize("kind", ["tcp", "udp", "echo"])
def test_a_dial_by_an_interface_that_is_not_there_fails(kind, version):
    with pytest.raises(OSError, match="No such device"):
        dial(kind, version, 9, "no-such-device")
    assert sockets.connect_failure(errno.ENODEV) == ("proxy_error", icmp.HOST_UNREACHABLE)


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (errno.ECONNRESET, "origin_reset", None),
        (errno.ETIMEDOUT, "origin_timeout", None),
        (errno.ENETUNREACH, "origin_unreachable", icmp.NET_UNREACHABLE),
        (errno.EHOSTUNREACH, "origin_unreachable", icmp.HOST_UNREACHABLE),
        (errno.EPERM, "origin_unreachable", icmp.PROHIBITED),
        (errno.EMFILE, "proxy_error", icmp.HOST_UNREACHABLE),
        (0, "proxy_error", icmp.HOST_UNREACHABLE),
    ],
)
def test_errno_has_a_meaning(code, reason, error):
    assert sockets.connect_failure(code) == (reason, error)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EMFILE, DropReason.NO_DESCRIPTORS),
        (errno.EADDRNOTAVAIL, DropReason.PORTS_EXHAUSTED),
        (errno.EHOSTUNREACH, None),
    ],
)
def test_shortage_is_ours(code, reason):
    assert sockets.shortage(code) is reason


@FAMILIES
def test_udp_error_says_who_and_what_about(version):
    port = closed_port(version, socket.SOCK_DGRAM)
    with connected_udp(version, port) as sock:
        sock.send(b"question")
        wait(sock, select.POLLERR)
        report = sockets.network_error(sock)
        assert report is not None
        assert (report.kind, report.code) == ((3, 3) if version == 4 else (1, 4))
        assert (report.offender, report.quoted) == (pack(LOCALHOST[version]), b"question")
        assert report.destination == (pack(LOCALHOST[version]), port)
        assert sockets.network_error(sock) is None


@FAMILIES
def test_path_mtu_is_known_and_the_hop_is_the_clients(version):
    with connected_udp(version, closed_port(version, socket.SOCK_DGRAM)) as sock:
        assert sockets.path_mtu(sock, version) >= 65_535
        sockets.set_ttl(sock, version, 7, True)
        level, name = (
            (socket.IPPROTO_IP, socket.IP_TTL) if version == 4 else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        )
        assert sock.getsockopt(level, name) == 7


@FAMILIES
def test_overflow_of_the_sockets_buffer_is_counted(version):
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as origin:
        origin.bind((LOCALHOST[version], 0))
        with connected_udp(version, origin.getsockname()[1]) as sock:
            origin.connect(sock.getsockname())
            assert sockets.overflows(sock) == 0
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(50):
                origin.send(bytes(1000))
            assert sockets.overflows(sock) > 0


@FAMILIES
def test_failed_dials_leave_no_descriptor(version):
    before = len(os.listdir("/proc/self/fd"))
    blackhole = pack("255.255.255.255") if version == 4 else pack("::ffff:255.255.255.255")
    for _ in range(5):
        with pytest.raises(OSError, match=r"\[Errno"):
            sockets.source_address(blackhole, 53)
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptor_limit_is_raised_as_far_as_it_goes():
    import resource

    limit = sockets.raise_descriptor_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, limit)
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    if int(status["CapEff"], 16) >> CAP_SYS_RESOURCE & 1:
        assert limit == int(Path("/proc/sys/fs/nr_open").read_text())
