"""Policy routing by rtnetlink (linux/fib_rules.h): a routing table for packets that arrive through an interface."""

from __future__ import annotations

import errno
import socket
from typing import Any

from oxyctl.net import messages, netlink
from oxyctl.net.netlink import NLM_F_CREATE, NLM_F_EXCL, Request

RTM_NEWRULE, RTM_DELRULE = 32, 33
FR_ACT_TO_TBL = 1
LOCAL_TABLE = 255
FIRST, LOCAL, LATER = 100, 1000, 2000  # priorities; the kernel's own rules have 0 (local), 32766 and 32767
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def from_interface(interface: str, table: int, *, is_first: bool) -> list[Request]:
    """Route packets from `interface` by `table`, in both families.

    `is_first`: before the lookup of the namespace's own addresses; requires `move_local_rule`.
    """
    priority = FIRST if is_first else LATER
    return [_request(RTM_NEWRULE, family, priority, table, interface) for family in FAMILIES]


def move_local_rule() -> None:
    """Move the lookup of the namespace's own addresses behind the first rules. Idempotent. OSError: refused."""
    for family in FAMILIES:
        for request in (
            _request(RTM_NEWRULE, family, LOCAL, LOCAL_TABLE),
            _request(RTM_DELRULE, family, 0, LOCAL_TABLE),
        ):
            try:
                netlink.run([request])
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOENT):
                    raise


def _request(kind: int, family: int, priority: int, table: int, interface: str | None = None) -> Request:
    fields = {"family": family, "table": table if table < 256 else 0, "action": FR_ACT_TO_TBL}
    attributes: list[tuple[str, Any]] = [("FRA_PRIORITY", priority), ("FRA_TABLE", table)]
    if interface is not None:
        attributes.append(("FRA_IIFNAME", interface))
    body = messages.rule(fields, attributes)
    flags = NLM_F_CREATE | NLM_F_EXCL if kind == RTM_NEWRULE else 0
    return Request(f"rule for {interface or 'own addresses'}", kind, flags, body)
