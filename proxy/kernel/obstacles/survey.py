"""Facts about the namespace of the kernel off-ramp, read from the kernel and its tools; nothing is changed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

from proxy.device import routing
from proxy.kernel.facts import conntrack_usage
from proxy.kernel.obstacles.firewall import Json
from proxy.kernel.obstacles.judge import Facts
from proxy.settings.model import KernelOffRamp

SBIN = "/usr/sbin:/sbin"
CAP_NET_ADMIN = 12
RTF_DEFAULT_ADVERTISED = 0x0001_0000 | 0x0004_0000  # linux/ipv6_route.h: RTF_DEFAULT, RTF_ADDRCONF
SYSCTLS = ("net/ipv4/conf/{}/rp_filter", "net/ipv4/conf/{}/forwarding", "net/ipv6/conf/{}/accept_ra")
WHOLE = ("net/ipv6/conf/all/forwarding", "net/ipv6/conf/all/force_forwarding")
TIME_LIMIT_S = 10


def gather(
    own: KernelOffRamp,
    *,
    interfaces: Iterable[str] = (),
    bound: Iterable[str] = (),
    on_ramps: Iterable[str] = (),
) -> Facts:
    """The facts of the calling thread's namespace. `interfaces`: those through which packets would leave and return."""
    names = tuple(interfaces)
    sysctls = _sysctls(("all", *names))
    may_change = _may_change()
    return Facts(
        mark=own.mark,
        priority=own.priority,
        first_table=own.first_table,
        table=f"oxy_{own.instance}",
        bound=tuple(bound),
        on_ramps=tuple(on_ramps),
        interfaces=names,
        has_nft=_find("nft") is not None,
        may_change=may_change,
        ruleset=_ruleset() if may_change else None,
        iptables=_iptables() if may_change else {},
        rules=list(routing.rules()),
        routes=list(routing.routes(4)),
        indexes={name: index for index, name in socket.if_nameindex()},
        sysctls=sysctls,
        conntrack=conntrack_usage(),
        advertised=tuple(name for name in _advertised() if sysctls.get(f"net/ipv6/conf/{name}/accept_ra") == 1),
    )


def default_interfaces() -> list[str]:
    """The interfaces of the main table's default routes."""
    names = dict(socket.if_nameindex())
    found = [route for version in (4, 6) for route in routing.routes(version)]
    defaults = [each for each in found if each.table == routing.RT_TABLE_MAIN and each.prefix.endswith("/0")]
    return list(dict.fromkeys(names[each.index] for each in defaults if each.index in names))


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=SBIN)


def _printed(program: str, *arguments: str) -> str | None:
    """The output of a program, or None if it is not installed or fails."""
    path = _find(program)
    if path is None:
        return None
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=TIME_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _ruleset() -> list[Json] | None:
    text = _printed("nft", "--json", "--terse", "list", "ruleset")
    try:
        found: list[Json] | None = None if text is None else json.loads(text)["nftables"]
    except (ValueError, KeyError):
        return None
    return found


def _iptables() -> dict[int, list[str]]:
    """Rules that nft does not show: those of iptables-legacy, if it is in use."""
    found = {}
    for version, names, program in (
        (4, "ip_tables_names", "iptables-legacy"),
        (6, "ip6_tables_names", "ip6tables-legacy"),
    ):
        try:
            is_used = "filter" in Path("/proc/thread-self/net", names).read_text().split()
        except OSError:
            continue
        if is_used and (text := _printed(program, "-S")) is not None:
            found[version] = text.splitlines()
    return found


def _sysctls(interfaces: Iterable[str]) -> dict[str, int]:
    found = {}
    for name in (*WHOLE, *(each.format(interface) for interface in interfaces for each in SYSCTLS)):
        try:
            found[name] = int(Path("/proc/sys", name).read_text())
        except (OSError, ValueError):
            continue
    return found


def _may_change() -> bool:
    status = Path("/proc/thread-self/status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAP_NET_ADMIN & 1)


def _advertised() -> list[str]:
    """Interfaces with a default route learnt from router advertisements."""
    try:
        rows = [line.split() for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()]
    except OSError:
        return []
    wanted = RTF_DEFAULT_ADVERTISED
    return [row[9] for row in rows if row[1] == "00" and int(row[8], 16) & wanted == wanted]
