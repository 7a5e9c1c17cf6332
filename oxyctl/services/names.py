"""The lab's resolver: 127.0.0.1:53 of every node, all in one process. `python -m oxyctl.services.names CONFIG.json`.

CONFIG.json: `hosts`, the file that has the names; `namespaces`, the files of those that ask. `resolv.conf` of a lab
points here, so that what reads no hosts file, `dig` for one, finds the same names.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

from oxyctl.services.dns import DnsService
from oxyctl.services.host import Host, bind_udp, entered, listen_tcp
from oxyctl.services.zone import Zone

ADDRESS, PORT = "127.0.0.1", 53


async def serve(config: dict[str, Any]) -> None:
    """Answer in every namespace until SIGTERM or SIGINT; one JSON line on standard output when that has begun."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    zone, running = Zone(Path(config["hosts"])), []
    for namespace in config["namespaces"]:
        try:
            running.append(await _start(namespace, zone))
        except OSError as error:  # a program of the node's own was first
            print(f"{Path(namespace).name}: no resolver on {ADDRESS}:{PORT}: {error}", file=sys.stderr, flush=True)
    print(json.dumps({"ready": True}), flush=True)
    await stopped.wait()
    for service in running:
        await service.stop()


async def _start(namespace: str, zone: Zone) -> DnsService:
    with contextlib.ExitStack() as undo:
        with entered(namespace, "net"):
            listening = undo.enter_context(listen_tcp(ADDRESS, PORT))
            bound = undo.enter_context(bind_udp(ADDRESS, PORT))
        service = DnsService(Host(Path(namespace).name, [ADDRESS], Path()), zone, [listening], [bound])
        await service.start()
        undo.pop_all()
        return service


if __name__ == "__main__":
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text())))
