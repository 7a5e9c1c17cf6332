"""Run one proxy: `python -m proxy proxy.yaml`; or show the changes that it would make to this machine."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Iterator

from proxy import __version__
from proxy.app import Proxy, policy_files
from proxy.errors import ProxyError
from proxy.kernel.policy_routing import find_obstacles, is_configured, planned
from proxy.kernel.private import become_namespace_owner
from proxy.policy.load import compile_policies
from proxy.settings import DocumentError, Settings, load

# Ended flows leave no reference cycles, so searching thousands of live ones after every 700 new objects is useless.
COLLECT = 20_000, 20, 50

log = logging.getLogger("proxy")


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 stopped as asked, 1 failed, 2 invalid file or command line."""
    parser = argparse.ArgumentParser(prog="python -m proxy", description="Run one proxy from a configuration file.")
    parser.add_argument("file", help="the configuration, see examples/proxy.yaml")
    parser.add_argument("--check", action="store_true", help="only check whether the file is valid")
    parser.add_argument(
        "--dry-run", action="store_true", help="list the changes it would make to this network namespace, and make none"
    )
    parser.add_argument("--verbose", action="store_true", help="log more detail")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        settings = load(options.file)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    if options.check:
        source = policy_files(settings)
        if source is not None:
            try:
                compile_policies(source, settings.tenants, time.time())
            except DocumentError as error:
                print(error, file=sys.stderr)
                return 2
        print(f"{options.file}: valid")
        return 0
    try:
        if options.dry_run:
            print(*dry_run(settings), sep="\n")
            return 0
        become_namespace_owner()
        gc.set_threshold(*COLLECT)
        asyncio.run(_serve(settings))
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    except ProxyError as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 1
    return 0


def dry_run(settings: Settings) -> Iterator[str]:
    """The changes that the kernel off-ramp would make to this namespace, and its obstacles. ProxyError: as at start."""
    if not is_configured(settings):
        yield "nothing would change in this network namespace (offramp: sockets)"
        return
    for change in planned(settings):
        yield f"would change  {change}"
    for obstacle in find_obstacles(settings):
        yield f"{'note' if obstacle.is_note else 'in the way':12}  {obstacle}"


async def _serve(settings: Settings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    proxy = Proxy(settings)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(proxy.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        await proxy.start()
        log.info("ready: control socket %s", settings.control)
        await stopped.wait()
    finally:
        await proxy.stop()


if __name__ == "__main__":
    sys.exit(main())
