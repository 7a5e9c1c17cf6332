"""Facts about this namespace's kernel: what it can do, and how full its connection tracking table is."""

from __future__ import annotations

import socket
from pathlib import Path

from proxy.flow.flow import address_text
from proxy.kernel import nft

RESERVE = 0.05  # of conntrack's table: for what is not ours
UNKNOWN_ROOM = 1 << 20
HELPERS = ("ftp",)  # TFTP's would compete with the filtering of UDP answers


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
    """Entries of this namespace, and the maximum; None: no connection is tracked here."""
    try:
        count = int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())
        most = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    except (OSError, ValueError):
        return None
    return count, most


def conntrack_room() -> int:
    """The number of entries that we may still add to conntrack; a reserve is left for others."""
    usage = conntrack_usage()
    return UNKNOWN_ROOM if usage is None else max(0, int(usage[1] * (1 - RESERVE)) - usage[0])


def conntrack_drops() -> int:
    """Packets that conntrack dropped because its table was full, or two connections clashed."""
    try:
        names, *rows = Path("/proc/net/stat/nf_conntrack").read_text().splitlines()
    except OSError:
        return 0
    at = [index for index, name in enumerate(names.split()) if name in ("drop", "insert_failed")]
    return sum(int(row.split()[index], 16) for row in rows for index in at)


def helpers() -> tuple[str, ...]:
    """The available conntrack helpers, such as FTP's, which knows the addresses inside its control connections."""
    return tuple(each for each in HELPERS if nft.is_accepted(_table(f'ct helper it {{ type "{each}" protocol tcp; }}')))


def has_timeouts() -> bool:
    """Whether time-outs can be set for our connections alone."""
    return nft.is_accepted(_table("ct timeout it { protocol tcp; l3proto ip; policy = { established: 9 }\n}"))


def _table(inside: str) -> str:
    return f"table inet oxy_probe {{ {inside}\n}}\n"
