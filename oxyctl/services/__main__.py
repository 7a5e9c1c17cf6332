"""Run the origin servers of a lab: `python -m oxyctl.services [--verbose] CONFIG.json`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import signal
import sys

import msgspec

from oxyctl.services.config import Config, load
from oxyctl.services.fleet import Fleet
from oxyctl.services.service import ServiceError
from proxy.settings import DocumentError


async def serve(config: Config, path: str) -> None:
    """Start everything, report it as one JSON line on standard output, and serve until SIGTERM or SIGINT.

    SIGHUP: the configuration in the file `path` has changed; the result is reported as another such line.
    """
    stopped, changed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, changed.set)
    fleet = Fleet()
    starting = asyncio.create_task(fleet.start(config))
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    try:
        starting.result()
        print(msgspec.json.encode(fleet.report()).decode(), flush=True)
        follower = asyncio.create_task(_follow(fleet, path, changed))
        await stopping
        follower.cancel()
    finally:
        stopping.cancel()
        await fleet.stop()


async def _follow(fleet: Fleet, path: str, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        config = load(path)
        problems = await fleet.change(config)
        report = {**fleet.report(), "generation": config.generation, "problems": problems}
        print(msgspec.json.encode(report).decode(), flush=True)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """Exit status: 0 stopped, 1 a service could not start, 2 the configuration is wrong."""
    parser = argparse.ArgumentParser(prog="oxyctl.services", description="The origin servers of a lab.")
    parser.add_argument("config", metavar="CONFIG.json")
    parser.add_argument("--verbose", action="store_true", help="log every request")
    options = parser.parse_args()
    level = logging.DEBUG if options.verbose else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("oxyctl.services").setLevel(level)
    try:
        config = load(options.config)
    except DocumentError as error:
        print(error, file=sys.stderr)
        return 2
    raise_descriptor_limit()
    try:
        asyncio.run(serve(config, options.config))
    except ServiceError as error:
        print(f"oxyctl.services: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
