"""Kernel features: those that labs need, and those for which labs have a substitute."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from oxyctl.build.isolation import OBSTACLES
from oxyctl.doctor import requests
from oxyctl.doctor.finding import Outcome, Trial
from oxyctl.doctor.modules import module_fix
from oxyctl.doctor.sandbox import enter_new, in_child, in_sandbox, make_dumpable
from oxyctl.net import netlink
from oxyctl.net.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount
from oxyctl.net.tunnels import try_tunnel
from proxy.device.interface import bring_up
from proxy.device.tun import has_udp_offload, open_tun

NOBODY = 65_534
IPPROTO_GRE = 47
TUN_DEVICE = "/dev/net/tun"
NO_TUN = "sudo modprobe tun; sudo mkdir -p /dev/net; sudo mknod -m 666 /dev/net/tun c 10 200"
USER_SPACE = "in user space instead"


def trials() -> list[Trial]:
    """Trials of kernel features; later ones build on earlier ones."""
    return [
        Trial("namespaces", "every lab", _namespaces, required=True),
        Trial("rootless", "labs without sudo", _rootless),
        Trial("AppArmor", "labs without sudo", _apparmor),
        Trial("/proc", "ps and kill inside nodes see the lab's own processes only", lambda: in_sandbox(_proc)),
        Trial("/dev/net/tun", "clients' devices; the proxy's TCP", _tun, required=True),
        Trial("TUN offload", "bulk transfers: 64 KB packets", lambda: in_sandbox(_tun_offload)),
        Trial("UDP offload", "bulk UDP: super-datagrams (Linux 6.2)", lambda: in_sandbox(_udp_offload)),
        _module("bridge", "networks", "bridge", partial(_link, "bridge"), required=True),
        _module("veth", "links", "veth", partial(_link, "veth"), required=True),
        Trial("IPv6", "IPv6 subnets", lambda: in_sandbox(_ipv6), fix="boot without ipv6.disable=1"),
        Trial("ping sockets", "ping through the proxy", lambda: in_sandbox(_ping_sockets)),
        Trial("raw sockets", "captures, GRE agents", lambda: in_sandbox(_raw_sockets)),
        _module("tbf", f"links with a rate; {USER_SPACE}", "sch_tbf", partial(_queue, "tbf")),
        _module("netem", f"links with delay and loss; {USER_SPACE}", "sch_netem", partial(_queue, "netem")),
        _module("GRE", f"GRE sites; {USER_SPACE}", "ip_gre", partial(_tunnel, "gre")),
        _module("GRE over IPv6", f"GRE sites with `outer: 6`; {USER_SPACE}", "ip6_gre", partial(_tunnel, "ip6gre")),
        _module("FOU", f"GUE sites; {USER_SPACE}", "fou", _fou),
        _module("GUE", f"GUE sites; {USER_SPACE}", "fou", partial(_tunnel, "gue")),
        _module("GUE over IPv6", f"GUE sites with `outer: 6`; {USER_SPACE}", "fou6", partial(_tunnel, "gue6")),
        _module("VRF", "routers with several tables", "vrf", partial(_link, "vrf")),
        _module("dummy", "addresses without a link", "dummy", partial(_link, "dummy")),
        _module("nftables", "rules inside nodes", "nf_tables", _nftables),
    ]


def _module(name: str, needed_for: str, module: str, probe: Callable[[], Outcome], *, required: bool = False) -> Trial:
    """A trial of a feature that a kernel module provides."""
    return Trial(name, needed_for, lambda: in_sandbox(probe), fix=module_fix(module), required=required)


def _namespaces() -> Outcome:
    try:
        in_sandbox(lambda: Outcome("ok"))
    except OSError as error:
        return Outcome("missing", error.strerror or "", _obstacle_fix() or "sudo oxyctl lab up")
    return Outcome("ok", "as root" if os.geteuid() == 0 else "in a user namespace")


def _rootless() -> Outcome:
    """Whether a user without privileges can create namespaces; tried as nobody if the caller is root."""
    as_nobody = os.geteuid() == 0

    def become_and_enter() -> Outcome:
        if as_nobody:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            make_dumpable()  # otherwise root owns its /proc/self/uid_map (proc(5))
        enter_new()
        with open(TUN_DEVICE, "r+b", buffering=0):
            return Outcome("ok", "tried as nobody" if as_nobody else "")

    try:
        return in_child(become_and_enter)
    except OSError as error:
        fix = _obstacle_fix() or (_tun_fix(error) if TUN_DEVICE in str(error) else None)
        return Outcome("degraded", error.strerror or "", fix)


def _apparmor() -> Outcome:
    name = "kernel/apparmor_restrict_unprivileged_userns"
    try:
        restricts = Path("/proc/sys", name).read_text().strip() == OBSTACLES[name][0]
    except FileNotFoundError:
        return Outcome("ok", "does not restrict user namespaces")
    return Outcome("degraded", "restricts user namespaces", OBSTACLES[name][1]) if restricts else Outcome("ok")


def _obstacle_fix() -> str | None:
    for name, (forbidding, fix) in OBSTACLES.items():
        try:
            if Path("/proc/sys", name).read_text().strip() == forbidding:
                return fix
        except OSError:
            continue
    return None


def _proc() -> Outcome:
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:  # a container hides parts of /proc, and the kernel refuses to show them again
        return Outcome("degraded", f"cannot be mounted: {error.strerror}", "run it outside the container")
    return Outcome("ok") if os.readlink("/proc/self") == "1" else Outcome("degraded", "shows processes outside the lab")


def _tun() -> Outcome:
    try:
        return in_sandbox(_open_plain)
    except OSError as error:
        return Outcome("missing", error.strerror or "", _tun_fix(error))


def _tun_fix(error: OSError) -> str:
    return f"sudo chmod 666 {TUN_DEVICE}" if error.errno in (errno.EACCES, errno.EPERM) else NO_TUN


def _open_plain() -> Outcome:
    os.close(open_tun("doctor0", offload=False))
    return Outcome("ok")


def _tun_offload() -> Outcome:
    os.close(open_tun("doctor0", offload=True, udp_offload=False))
    return Outcome("ok")


def _udp_offload() -> Outcome:
    fd = open_tun("doctor0", offload=True, udp_offload=False)
    return Outcome("ok") if has_udp_offload(fd) else Outcome("degraded", "one datagram at a time, before Linux 6.2")


def _link(kind: str) -> Outcome:
    netlink.run([requests.new_link("doctor0", kind)])
    return Outcome("ok")


def _tunnel(kind: str) -> Outcome:
    try_tunnel(kind)
    return Outcome("ok")


def _queue(kind: str) -> Outcome:
    try:
        netlink.run([requests.new_queue(kind, netlink.LOOPBACK_INDEX)])
    except OSError as error:
        return _outcome(error.errno or 0, {errno.EINVAL})
    return Outcome("ok")


def _fou() -> Outcome:
    return _outcome(requests.find_family("fou"), set())


def _nftables() -> Outcome:
    return _outcome(requests.make_table("doctor"), set())


def _outcome(code: int, present: set[int]) -> Outcome:
    return Outcome("ok") if code == 0 or code in present else Outcome("degraded", os.strerror(code))


def _ipv6() -> Outcome:
    bring_up("lo")
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::1", 0))
    return Outcome("ok")


def _ping_sockets() -> Outcome:
    """Ping sockets, as in the proxy's node. The second range is needed where a user namespace maps only one group."""
    detail = ""
    for groups in ("0 2147483647", "0 0"):
        try:
            Path("/proc/sys/net/ipv4/ping_group_range").write_text(groups)
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
        except OSError as error:
            detail = error.strerror or str(error)
        else:
            return Outcome("ok")
    return Outcome("degraded", detail)


def _raw_sockets() -> Outcome:
    for family, kind, protocol in (
        (socket.AF_INET, socket.SOCK_RAW, IPPROTO_GRE),
        (socket.AF_PACKET, socket.SOCK_RAW, 0),
    ):
        socket.socket(family, kind, protocol).close()
    return Outcome("ok")
