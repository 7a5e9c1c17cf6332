"""The lab's resolver at 127.0.0.1:53 of every node, in one process: `python -m oxyctl.services.names CONFIG.json`.

CONFIG.json: `hosts`, the file with the names; `nodes`, the clients, each with its name and `netns`, the file of its
namespace. `resolv.conf` of a lab points here, so that programs that read no hosts file, such as `dig`, find the same
names. SIGHUP: CONFIG.json has changed; it is read again, and a line of JSON repeats its `generation`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from oxyctl.services.dns import DnsService
from oxyctl.services.host import Host, bind_udp, entered, listen_tcp
from oxyctl.services.zone import Zone

ADDRESS, PORT = "127.0.0.1", 53


class Resolver:
    """The DNS servers by namespace: path and inode number, since a node may be created again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._running: dict[tuple[str, int], DnsService] = {}
        self._changes = asyncio.Event()
        self._stopped = False

    async def run(self) -> None:
        """Answer until SIGTERM or SIGINT. Prints a JSON line whenever it has applied CONFIG.json."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._changes.set)
        while not self._stopped:
            self._changes.clear()
            config: dict[str, Any] = json.loads(self._path.read_text())
            await self._apply(config)
            report = {"ready": True, "generation": config.get("generation", 0), "problems": {}}
            print(json.dumps(report), flush=True)
            await self._changes.wait()
        for service in self._running.values():
            await service.stop()

    def _stop(self) -> None:
        self._stopped = True
        self._changes.set()

    async def _apply(self, config: dict[str, Any]) -> None:
        zone = Zone(Path(config["hosts"]))
        wanted = {(node["netns"], inode): node["name"] for node in config["nodes"] if (inode := _inode(node["netns"]))}
        for removed in self._running.keys() - wanted.keys():
            await self._running.pop(removed).stop()
        for key, name in wanted.items():
            if key not in self._running:
                try:
                    self._running[key] = await _start(name, key[0], zone)
                except OSError as error:  # a program in the node uses the port already
                    print(f"{name}: no resolver on {ADDRESS}:{PORT}: {error}", file=sys.stderr, flush=True)


def _inode(namespace: str) -> int:
    """The inode number of a namespace; 0 if the namespace no longer exists."""
    try:
        return os.stat(namespace).st_ino
    except OSError:
        return 0


async def _start(name: str, namespace: str, zone: Zone) -> DnsService:
    with contextlib.ExitStack() as undo:
        with entered(namespace, "net"):
            listening = undo.enter_context(listen_tcp(ADDRESS, PORT))
            bound = undo.enter_context(bind_udp(ADDRESS, PORT))
        service = DnsService(Host(name, [ADDRESS], Path()), zone, [listening], [bound])
        await service.start()
        undo.pop_all()
        return service


if __name__ == "__main__":
    asyncio.run(Resolver(Path(sys.argv[1])).run())
