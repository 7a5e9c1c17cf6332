"""nft(8) for transactions, and nfnetlink for what must not cost a process: counters, and who changed the ruleset."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess

from proxy.errors import ProxyError

NFNL_SUBSYS_NFTABLES, NFNLGRP_NFTABLES = 10, 7
DELTABLE, DELCHAIN, DELRULE, DELSET, NEWOBJ, GETOBJ = 2, 5, 8, 11, 18, 19
NFTA_TABLE = 1  # of tables, chains, rules, sets and objects alike: the table's name
NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA, NFT_OBJECT_COUNTER = 2, 3, 4, 1
NFTA_COUNTER_PACKETS = 2
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR = 0x1, 0x300, 3, 2
NFPROTO_INET = 1

_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def run(text: str, *options: str) -> None:
    """One transaction. ProxyError: nft is not installed, or what it says of the first line that the kernel refused."""
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if program is None:
        raise ProxyError("nft is not installed (apt install nftables)")
    done = subprocess.run([program, *options, "-f", "-"], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProxyError(f"nft: {next(iter(done.stderr.strip().splitlines()), 'failed')}")


def check(text: str) -> None:
    """ProxyError: why the kernel would not take `text`, as `run` says it; nothing is changed."""
    run(text, "--check")


def is_accepted(text: str) -> bool:
    """Whether the kernel would take `text`; nothing is changed."""
    try:
        check(text)
    except ProxyError:
        return False
    return True


def watch() -> socket.socket:
    """A non-blocking socket of the calling thread's namespace that hears of every change of the ruleset."""
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 12
    )  # NETLINK_NETFILTER
    sock.bind((0, 1 << NFNLGRP_NFTABLES - 1))
    return sock


def has_lost(sock: socket.socket, table: str) -> bool:
    """Whether something of `table` was deleted, by what waits on a socket of `watch`; also when too much has waited."""
    lost = False
    while True:
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return lost
        except OSError:  # ENOBUFS: nobody knows
            return True
        for kind, body in _messages(data):
            is_deletion = kind in [NFNL_SUBSYS_NFTABLES << 8 | each for each in (DELTABLE, DELCHAIN, DELRULE, DELSET)]
            if is_deletion and _attributes(body[4:]).get(NFTA_TABLE, b"").rstrip(b"\0") == table.encode():
                lost = True


def counters(table: str) -> dict[str, int]:
    """Packets of each named counter of an `inet` table; none where the table is missing."""
    name = table.encode() + b"\0"
    body = struct.pack("=BBH", NFPROTO_INET, 0, 0)
    body += _ATTRIBUTE.pack(4 + len(name), NFTA_TABLE) + name + bytes(-len(name) % 4)
    body += _ATTRIBUTE.pack(8, NFTA_OBJ_TYPE) + struct.pack("!I", NFT_OBJECT_COUNTER)
    found: dict[str, int] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 12) as sock:
        kind = NFNL_SUBSYS_NFTABLES << 8 | GETOBJ
        sock.send(_HEAD.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        while True:
            for answer, data in _messages(sock.recv(1 << 16)):
                if answer in (NLMSG_DONE, NLMSG_ERROR):
                    return found
                values = _attributes(data[4:])
                inner = _attributes(values.get(NFTA_OBJ_DATA, b""))
                if values.get(NFTA_TABLE) == name and NFTA_COUNTER_PACKETS in inner:
                    text = values[NFTA_OBJ_NAME].rstrip(b"\0").decode()
                    found[text] = int.from_bytes(inner[NFTA_COUNTER_PACKETS], "big")


def _messages(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 16 <= len(data):
        length, kind, *_ = _HEAD.unpack_from(data, at)
        found.append((kind, data[at + 16 : at + length]))
        at += max(16, (length + 3) & ~3)
    return found


def _attributes(body: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    return found
