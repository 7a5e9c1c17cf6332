"""Drop counters of other programs that carry tunnel ends, read from their status sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator

from proxy.settings.sites import SITE, Site

ANSWER_TIMEOUT_S = 1.0
MAX_ANSWER_BYTES = 4 << 20

EndDrops = dict[tuple[str, str, str, str], int]  # packets by tenant, tunnel, end and reason


async def end_drops(sites: Iterable[Site]) -> EndDrops:
    """The drops of all sites with a status socket. A program that does not answer in time is left out."""
    with_status = [site for site in sites if site.status is not None]
    paths = list(dict.fromkeys(site.status or "" for site in with_status))
    answers = dict(zip(paths, await asyncio.gather(*map(_ask, paths)), strict=True))
    drops: EndDrops = {}
    for site in with_status:
        for (node, end, reason), count in answers[site.status or ""].items():
            if node == site.name:
                drops[site.tenant, SITE + site.name, end, reason] = count
    return drops


async def _ask(path: str) -> dict[tuple[str, str, str], int]:
    """Packets by site, end and reason; empty without a valid answer."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # TimeoutError is an OSError
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return dict(_counts(json.loads(await _read(path))))
    return {}


def _counts(status: dict[str, list[dict[str, object]]]) -> Iterator[tuple[tuple[str, str, str], int]]:
    for tunnel in status["tunnels"]:
        drops = tunnel["drops"]
        if isinstance(drops, dict):
            for reason, count in drops.items():
                yield (str(tunnel["node"]), str(tunnel["end"]), str(reason)), int(count)


async def _read(path: str) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
            # by descriptor, since a Unix socket address has room for 108 bytes only
            await loop.sock_connect(sock, f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            while len(data) < MAX_ANSWER_BYTES and (more := await loop.sock_recv(sock, 1 << 16)):
                data += more
    finally:
        os.close(directory)
    return data
