"""The private network namespace: nothing in it can collide with the host, nor tenants with each other."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from proxy.device.interface import bring_up, set_sysctl
from proxy.device.namespaces import CLONE_NEWNET, CLONE_NEWUSER, unshare
from proxy.errors import ProxyError

T = TypeVar("T")

SYSCTLS = {
    "net/ipv6/conf/all/disable_ipv6": 0,
    "net/ipv6/conf/default/disable_ipv6": 0,
    "net/ipv6/conf/default/accept_dad": 0,
    "net/ipv6/conf/default/accept_ra": 0,
    "net/ipv4/conf/all/rp_filter": 0,  # ICMP errors come from routers to which this namespace has no route
    "net/ipv4/conf/default/rp_filter": 0,
    "net/core/somaxconn": 65_535,
    "net/ipv4/tcp_max_syn_backlog": 65_535,
    "net/ipv4/tcp_no_metrics_save": 1,  # a virtual address belongs to another peer next time
    "net/ipv4/tcp_rmem": "4096 131072 16777216",
    "net/ipv4/tcp_wmem": "4096 65536 16777216",
}


class PrivateNamespace:
    """A network namespace of our own, with one thread in it. The rest of the process stays outside."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="private-namespace", initializer=_enter)
        try:
            self.run(_prepare)
        except Exception as error:
            self._thread.shutdown()
            raise ProxyError(
                f"cannot make a private network namespace ({error}): root or user namespaces are needed"
            ) from error

    def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Call `function` in the namespace and return its result. Descriptors that it opens stay in the namespace."""
        return self._thread.submit(function, *arguments).result()

    def counters(self) -> dict[str, int]:
        """Packets that the kernel dropped in the namespace since its start, by names such as `Ip.InHdrErrors`."""
        return self.run(_read_counters)

    def close(self) -> None:
        self._thread.shutdown()


def become_namespace_owner() -> None:
    """Get the right to create namespaces, if it is missing, from a new user namespace. Call before any thread starts.

    Sockets outside keep working: the process stays in its network namespace, and its user is mapped to itself.
    """
    if os.geteuid() == 0:
        return
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError as error:
        raise ProxyError(f"cannot make a user namespace ({error.strerror}): run as root, or allow them") from error


def _enter() -> None:
    unshare(CLONE_NEWNET)


def _prepare() -> None:
    for name, value in SYSCTLS.items():
        set_sysctl(name, value)
    bring_up("lo")


def _read_counters() -> dict[str, int]:
    wanted = {
        "Ip.InHdrErrors",
        "Ip.InAddrErrors",
        "Ip.InDiscards",
        "Tcp.InErrs",
        "Tcp.InCsumErrors",
        "Tcp.AttemptFails",
    }
    counters: dict[str, int] = {}
    lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        section = names.partition(":")[0]
        for name, value in zip(names.split()[1:], values.split()[1:], strict=True):
            if f"{section}.{name}" in wanted:
                counters[f"{section}.{name}"] = int(value)
    for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines():
        name, value = line.split()
        if name in ("Ip6InHdrErrors", "Ip6InAddrErrors", "Ip6InDiscards", "Ip6InTruncatedPkts"):
            counters[name] = int(value)
    return counters
