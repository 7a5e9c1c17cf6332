"""What a kernel must have for the kernel off-ramp, found by trying in a namespace of the caller's choice."""

from __future__ import annotations

from collections.abc import Callable

from proxy.errors import ProxyError
from proxy.kernel import nft
from proxy.kernel.conntrack import Conntrack, ConntrackEvents
from proxy.kernel.packetlog import PacketLog

GROUP = 1
ZONES = """
table inet oxy_probe {
    map zones { typeof iifname : ct zone; elements = { "lo" : 7 }; }
    chain arriving { type filter hook prerouting priority raw; ct original zone set iifname map @zones; }
}
"""
TRANSLATION = """
table inet oxy_probe {
    chain leaving { type nat hook postrouting priority srcnat; masquerade; }
    chain up { fib daddr type { local, broadcast } accept; notrack accept; }
}
"""
TIMEOUTS = """
table inet oxy_probe { ct timeout probe { protocol tcp; l3proto ip; policy = { established: 9 }
}
}
"""


def conntrack() -> None:
    """OSError: connections cannot be listed, or their ends are not told."""
    Conntrack().close()
    ConntrackEvents().close()


def zones() -> None:
    """ProxyError: no zone for each network, so that equal addresses of two tenants would meet."""
    nft.check(ZONES)


def translation() -> None:
    """ProxyError: nothing is masqueraded."""
    nft.check(TRANSLATION)


def timeouts() -> None:
    """ProxyError: idle connections are kept for as long as the host says."""
    nft.check(TIMEOUTS)


def log() -> None:
    """OSError, ProxyError: interface on-ramps cannot be told of the flows that the kernel carries."""
    PacketLog(GROUP).close()
    nft.check(f"table inet oxy_probe {{ chain c {{ log group {GROUP} snaplen 128 queue-threshold 16; }}\n}}\n")


# what is found out, its kernel module, and what becomes of the off-ramp without it
PROBES: dict[str, tuple[str, Callable[[], None], str]] = {
    "connection tracking": ("nf_conntrack_netlink", conntrack, "unread flows as packets (offramp: kernel)"),
    "conntrack zones": ("nft_ct", zones, "equal addresses of two tenants in the kernel"),
    "masquerade": ("nft_masq", translation, "unread flows as packets (offramp: kernel)"),
    "conntrack time-outs": ("nfnetlink_cttimeout", timeouts, "idle times of proxy.yaml, in the kernel"),
    "NFLOG": ("nfnetlink_log", log, "interface on-ramps"),
}


def problem(name: str) -> str | None:
    """Why the kernel cannot do it; None: it can."""
    try:
        PROBES[name][1]()
    except (OSError, ProxyError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None
