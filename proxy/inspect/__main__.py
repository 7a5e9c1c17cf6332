"""An inspector process: `python -m proxy.inspect DESCRIPTOR [ssh] [keys]`, started by the proxy."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import logging
import pkgutil
import signal
import socket
import sys

import proxy.inspect
import proxy.policy.language
from proxy.inspect.close_notify import prepare
from proxy.inspect.inspector import TICK_S, Inspector
from proxy.inspect.sandbox import drop_privileges
from proxy.poller import Poller
from proxy.session.channel import SocketChannel
from proxy.session.messages import Ready, decode_to_inspector

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
KEPT_BYTES = 4 << 20  # free memory that is not returned to the kernel
COLLECT = 20_000, 20, 50  # thresholds of the garbage collector, the same as the proxy's
# modules that the standard library imports lazily: ssl needs a codec for server names, text needs others
IMPORTED_LATER = ("encodings.idna", "encodings.punycode", "encodings.ascii", "encodings.latin_1", "traceback",
                  "concurrent.futures.thread", "re2")  # fmt: skip


def main(descriptor: int, *, reads_ssh: bool, logs_keys: bool) -> None:
    """Serve until the proxy closes the channel."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # sent to the whole process group: the proxy decides when inspectors stop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.set_threshold(*COLLECT)
    _keep_memory()
    _import_all(reads_ssh)
    prepare()
    asyncio.run(_serve(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptor), logs_keys))


def _keep_memory() -> None:
    """Have the C library keep freed memory. Otherwise it may return the buffers of bulk data to the kernel at each
    event, and fault them in again page by page: 300 to 600 faults for each MB."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _import_all(reads_ssh: bool) -> None:
    """Import everything that may be needed: after the sandbox is closed, modules may be unreadable."""
    for name in IMPORTED_LATER:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(proxy.policy.language.__path__, "proxy.policy.language."):
        importlib.import_module(module.name)
    for module in pkgutil.walk_packages(proxy.inspect.__path__, "proxy.inspect."):
        is_of_ssh = module.name.startswith("proxy.inspect.ssh")  # asyncssh: 0.2 s and 25 MB
        if not module.name.endswith("__main__") and (reads_ssh or not is_of_ssh):
            importlib.import_module(module.name)


async def _serve(sock: socket.socket, logs_keys: bool) -> None:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    poller = Poller(loop)
    inspector = Inspector(poller)
    shortfalls = drop_privileges(logs_keys=logs_keys)
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
    main(int(sys.argv[1]), reads_ssh="ssh" in sys.argv[2:], logs_keys="keys" in sys.argv[2:])
