"""Facts about the kernel in this namespace: its features, and the use of its connection tracking table."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import NamedTuple

from proxy.flow.flow import address_text
from proxy.kernel import nft

log = logging.getLogger(__name__)

RESERVE = 0.05  # share of the conntrack table left to others
UNKNOWN_ROOM = 1 << 20
FLOWTABLE = """
    flowtable fast { hook ingress priority filter; devices = { "lo" }; counter; }
    chain passing { type filter hook forward priority filter; flow add @fast; }
"""
HELPERS = ("ftp",)  # TFTP's would interfere with the filtering of unsolicited UDP


def source_towards(destination: bytes, device: str | None) -> str | None:
    family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            if device is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sock.connect((address_text(destination), 9))
        except OSError:
            return None
        found: str = sock.getsockname()[0]
        return found


def conntrack_usage() -> tuple[int, int] | None:
    """The number of conntrack entries in this namespace, and the maximum; None if nothing is tracked here."""
    try:
        count = int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
        most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    except (OSError, ValueError):
        return None
    return count, most


def conntrack_room() -> int:
    """The number of entries that we may still add to conntrack, with a reserve left for others."""
    usage = conntrack_usage()
    return UNKNOWN_ROOM if usage is None else max(0, int(usage[1] * (1 - RESERVE)) - usage[0])


def conntrack_drops() -> int:
    """Packets that conntrack dropped because its table was full, or because two connections clashed."""
    try:
        names, *rows = Path("/proc/net/stat/nf_conntrack").read_text().splitlines()
    except OSError:
        return 0
    at = [index for index, name in enumerate(names.split()) if name in ("drop", "insert_failed")]
    return sum(int(row.split()[index], 16) for row in rows for index in at)


def helpers() -> tuple[str, ...]:
    """The available conntrack helpers, such as FTP's, which follows the addresses in control connections."""
    return tuple(
        each for each in HELPERS if nft.is_accepted(probe_table(f'ct helper it {{ type "{each}" protocol tcp; }}'))
    )


def has_timeouts() -> bool:
    """Whether timeouts can be set for our connections alone."""
    return nft.is_accepted(probe_table("ct timeout it { protocol tcp; l3proto ip; policy = { established: 9 }\n}"))


class Features(NamedTuple):
    """Features of this kernel that the off-ramp uses if they exist."""

    helpers: tuple[str, ...] = ()  # of conntrack
    has_timeouts: bool = True
    has_flowtable: bool = False  # and it is to be used


def features(*, flowtable: bool) -> Features:
    """The features of this kernel. `flowtable`: whether to use a flowtable; logs if there is none."""
    found = Features(helpers(), has_timeouts(), flowtable and has_flowtable())
    if flowtable and not found.has_flowtable:
        log.warning("this kernel has no flowtable (nft_flow_offload): established flows pass through netfilter")
    return found


def has_flowtable() -> bool:
    """Whether flows can be entered in a flowtable that counts (nf_flow_table, Linux 5.7)."""
    return nft.is_accepted(probe_table(FLOWTABLE))


def probe_table(inside: str) -> str:
    """A table with this content, as a transaction to try."""
    return f"table inet oxy_probe {{ {inside}\n}}\n"
