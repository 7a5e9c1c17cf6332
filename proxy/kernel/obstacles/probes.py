"""Kernel features that the off-ramp needs, found by trying them in a namespace of the caller's choice."""

from __future__ import annotations

from collections.abc import Callable

from proxy.errors import ProxyError
from proxy.kernel import facts, nft
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
    """Raises OSError if connections cannot be listed, or their ends are not reported."""
    Conntrack().close()
    ConntrackEvents().close()


def zones() -> None:
    """Raises ProxyError if networks cannot have zones, so that equal addresses of two tenants would clash."""
    nft.check(ZONES)


def translation() -> None:
    """Raises ProxyError if masquerading is not possible."""
    nft.check(TRANSLATION)


def timeouts() -> None:
    """Raises ProxyError if idle connections are kept for as long as the host's settings say."""
    nft.check(TIMEOUTS)


def flowtable() -> None:
    """ProxyError: established flows always pass netfilter."""
    nft.check(facts.probe_table(facts.FLOWTABLE))


def log() -> None:
    """Raises OSError or ProxyError if interface on-ramps cannot get copies of packets that the kernel carries."""
    PacketLog(GROUP).close()
    nft.check(f"table inet oxy_probe {{ chain c {{ log group {GROUP} snaplen 128 queue-threshold 16; }}\n}}\n")


# the feature, its probe's kernel module, and what is missing without it
PROBES: dict[str, tuple[str, Callable[[], None], str]] = {
    "connection tracking": ("nf_conntrack_netlink", conntrack, "unread flows as packets (offramp: kernel)"),
    "conntrack zones": ("nft_ct", zones, "equal addresses of two tenants in the kernel"),
    "masquerade": ("nft_masq", translation, "unread flows as packets (offramp: kernel)"),
    "conntrack time-outs": ("nfnetlink_cttimeout", timeouts, "idle times of proxy.yaml, in the kernel"),
    "NFLOG": ("nfnetlink_log", log, "interface on-ramps"),
    "flowtable": ("nft_flow_offload", flowtable, "interface on-ramps with kernel: {flowtable: true}"),
}


def problem(name: str) -> str | None:
    """Why the kernel does not have this feature, or None if it does."""
    try:
        PROBES[name][1]()
    except (OSError, ProxyError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None
