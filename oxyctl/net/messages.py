"""rtnetlink messages for links and rules, encoded by pyroute2, which knows the kernel's formats.

pyroute2 is loaded with the first message: 80 ms and 13 MB, once, in the process that builds the lab. Only its message
classes are used: its sockets run an event loop of their own, which is impossible inside the supervisor's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER_BYTES = 16  # struct nlmsghdr (linux/netlink.h)
Attributes = Sequence[tuple[str, Any]]  # pairs of the kernel's name and a value, in order


def link(index: int, attributes: Attributes = (), *, flags: int = 0, changed: int = 0) -> bytes:
    """A struct ifinfomsg with its attributes. `changed`: the mask of `flags` to change (rtnetlink(7))."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    return _body(ifinfmsg(), {"index": index, "flags": flags, "change": changed}, attributes)


def link_kind(kind: str, data: Attributes) -> tuple[str, Any]:
    """The attribute for a link of this `kind`."""
    info = [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": list(data)})]
    return "IFLA_LINKINFO", {"attrs": info}


def rule(fields: Mapping[str, int], attributes: Attributes) -> bytes:
    """A struct fib_rule_hdr with its attributes (linux/fib_rules.h)."""
    from pyroute2.netlink.rtnl.fibmsg import fibmsg

    return _body(fibmsg(), fields, attributes)


def _body(message: Any, fields: Mapping[str, int], attributes: Attributes) -> bytes:
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data[HEADER_BYTES:])
