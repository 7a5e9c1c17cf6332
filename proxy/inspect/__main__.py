"""An inspector in a process of its own: `python -m proxy.inspect DESCRIPTOR`, started by the proxy."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys

from proxy.inspect.inspector import TICK_S, Inspector
from proxy.inspect.sandbox import give_up_rights
from proxy.poller import Poller
from proxy.session.channel import SocketChannel
from proxy.session.messages import Ready, decode_to_inspector

COLLECT = 20_000, 20, 50  # as the proxy's own


def main(descriptor: int) -> None:
    """Serve until the proxy closes the channel."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):  # of the terminal or of the service: the proxy says when it ends
        signal.signal(number, signal.SIG_IGN)
    gc.set_threshold(*COLLECT)
    asyncio.run(_serve(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptor)))


async def _serve(sock: socket.socket) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    poller = Poller(loop)
    inspector = Inspector(poller)
    shortfalls = give_up_rights()
    inspector.channel = SocketChannel(sock, poller, decode_to_inspector, inspector.receive, over.set)
    inspector.send(Ready(shortfalls))

    def tick() -> None:
        loop.call_later(TICK_S, tick)
        inspector.tick()

    tick()
    await over.wait()
    inspector.close()
    poller.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
