"""nft(8) for transactions, and nfnetlink where a process costs too much: counters, and changes of the ruleset."""

from __future__ import annotations

import select
import shutil
import socket
import struct
import subprocess

from proxy.errors import ProxyError
from proxy.kernel.netfilter import NETLINK_ADD_MEMBERSHIP, SOL_NETLINK, open_socket
from proxy.wire.netlink import (
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    message,
    messages,
    subsystem,
    values,
)

NFNL_SUBSYS_NFTABLES, NFNLGRP_NFTABLES = 10, 7
DELTABLE, DELCHAIN, DELRULE, DELSET, GETOBJ = 2, 5, 8, 11, 19
NFTA_TABLE = 1  # the table's name, in messages about tables, chains, rules, sets and objects alike
NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA, NFT_OBJECT_COUNTER = 2, 3, 4, 1
NFTA_COUNTER_PACKETS = 2
NFPROTO_INET = 1
RECEIVE_BYTES = 1 << 20


def run(text: str, *options: str) -> None:
    """Run one transaction. Raises ProxyError if nft is missing, or with its message about the first refused line."""
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if program is None:
        raise ProxyError("nft is not installed (apt install nftables)")
    done = subprocess.run([program, *options, "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProxyError(f"nft: {next(iter(done.stderr.strip().splitlines()), 'failed')}")


def check(text: str) -> None:
    """Raise ProxyError, as `run` does, if the kernel would refuse `text`. Nothing is changed."""
    run(text, "--check")


def is_accepted(text: str) -> bool:
    """Whether the kernel would accept `text`. Nothing is changed."""
    try:
        check(text)
    except ProxyError:
        return False
    return True


def watch() -> socket.socket:
    """A non-blocking socket of the calling thread's namespace that receives every change of the ruleset."""
    sock = open_socket(RECEIVE_BYTES)
    sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
    return sock


def has_lost(sock: socket.socket, table: str) -> bool:
    """Whether a message on a socket of `watch` reports a deletion in `table`. True as well if messages were lost."""
    lost, name = False, table.encode() + b"\0"
    deletions = [NFNL_SUBSYS_NFTABLES << 8 | each for each in (DELTABLE, DELCHAIN, DELRULE, DELSET)]
    while True:
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return lost
        except OSError:  # ENOBUFS: messages were lost
            return True
        for each in messages(data, len(data)):
            if each.kind in deletions:
                lost |= values(data, each.start + subsystem.size, each.end).get(NFTA_TABLE) == name


def counters(table: str) -> dict[str, int]:
    """Packet counts of the named counters in an `inet` table; empty if the table is missing."""
    name = table.encode() + b"\0"
    body = subsystem.pack(NFPROTO_INET, 0, 0) + attribute(NFTA_TABLE, name)
    body += attribute(NFTA_OBJ_TYPE, struct.pack("!I", NFT_OBJECT_COUNTER))
    found: dict[str, int] = {}
    with open_socket(RECEIVE_BYTES) as sock:
        sock.send(message(NFNL_SUBSYS_NFTABLES << 8 | GETOBJ, NLM_F_DUMP, 1, body))
        while True:
            select.select([sock], [], [])
            data = sock.recv(1 << 16)
            for each in messages(data, len(data)):
                if each.kind in (NLMSG_DONE, NLMSG_ERROR):
                    return found
                attributes = values(data, each.start + subsystem.size, each.end)
                counted = attributes.get(NFTA_OBJ_DATA, b"")
                inner = values(counted, 0, len(counted))
                if attributes.get(NFTA_TABLE) == name and NFTA_COUNTER_PACKETS in inner:
                    text = attributes[NFTA_OBJ_NAME].rstrip(b"\0").decode()
                    found[text] = int.from_bytes(inner[NFTA_COUNTER_PACKETS], "big")
